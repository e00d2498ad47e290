"""python -m theorems.attention_hessian: the options of `gdconv check attention-hessian`."""

from gdconv.cli.main import run_theorem

raise SystemExit(run_theorem("attention-hessian"))
