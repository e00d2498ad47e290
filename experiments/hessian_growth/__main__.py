"""python -m experiments.hessian_growth."""

from experiments.hessian_growth.experiment import main

raise SystemExit(main())
