"""python -m experiments.query_kernels."""

from experiments.query_kernels.experiment import main

raise SystemExit(main())
