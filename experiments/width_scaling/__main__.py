"""python -m experiments.width_scaling."""

from experiments.width_scaling.experiment import main

raise SystemExit(main())
