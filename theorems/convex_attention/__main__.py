"""python -m theorems.convex_attention: the options of `gdconv check`."""

from gdconv.cli.main import run_theorem
from theorems.convex_attention.theorem import ConvexAttention

raise SystemExit(run_theorem(ConvexAttention.id))
