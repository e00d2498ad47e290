"""python -m experiments.kernel_comparison."""

from experiments.kernel_comparison.experiment import main

raise SystemExit(main())
