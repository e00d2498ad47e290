"""python -m theorems.ntk_regime: the options of `gdconv check`."""

from gdconv.cli.main import run_theorem
from theorems.ntk_regime.theorem import NTKRegime

raise SystemExit(run_theorem(NTKRegime.id))
