"""python -m experiments.convex_attention."""

from experiments.convex_attention.experiment import main

raise SystemExit(main())
