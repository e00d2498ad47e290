"""python -m experiments.loss_landscape."""

from experiments.loss_landscape.experiment import main

raise SystemExit(main())
