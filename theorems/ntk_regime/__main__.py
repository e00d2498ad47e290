"""python -m theorems.ntk_regime: the options of `gdconv check ntk-regime`."""

from gdconv.cli.main import run_theorem

raise SystemExit(run_theorem("ntk-regime"))
