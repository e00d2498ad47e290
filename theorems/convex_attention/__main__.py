"""python -m theorems.convex_attention: the options of `gdconv check convex-attention`."""

from gdconv.cli.main import run_theorem

raise SystemExit(run_theorem("convex-attention"))
