"""python -m experiments.full_gd_on_digits."""

from experiments.full_gd_on_digits.experiment import main

raise SystemExit(main())
