"""python -m theorems.attention_hessian: the options of `gdconv check`."""

from gdconv.cli.main import run_theorem
from theorems.attention_hessian.theorem import AttentionHessian

raise SystemExit(run_theorem(AttentionHessian.id))
