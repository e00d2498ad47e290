"""Sixty-odd checks whose every number is kept: what a move of code must not change.

    python tests/battery.py            compare, bit for bit, with tests/data/battery.json
    python tests/battery.py --loose    verdicts exactly, numbers to 1e-6 (another processor)
    python tests/battery.py --write    keep what comes out now; say why in the commit

All theorems, statements, kernels, models, engines and named problems are in it. Of a trace the
first, middle and last row are kept, and a digest of every column.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

KEPT = Path(__file__).parent / "data" / "battery.json"

LOOSE = 1e-6
"""Relative tolerance on another processor, where sums are ordered otherwise."""

NOISE = (
    "the stored steps are gradient steps: defect over rounding",
    "|delta_t| over its bound, at every step",
)
"""Hypotheses whose left side is rounding itself: elsewhere only its verdict is compared."""

Options = dict[str, Any]
SMALL: Options = {"samples": 3, "tokens": 2, "embedding": 8, "head_dim": 4, "heads": 2}
RUN: Options = {"steps": 60, "until_loss": 1e-6}
LAZY: Options = {"samples": 2, "width": 128, "steps": 40}


def _attention() -> dict[str, tuple[str, Options]]:
    """The multi-head model: statements by kernel, engines, data, initializations, steps."""
    made: dict[str, tuple[str, Options]] = {}
    for kernel in ("softmax", "gaussian"):
        for statement in ("stacked", "per-head", "block-free", "kernel", "run"):
            steps = 20_000 if statement == "run" else 2000
            options = {"statement": statement, "kernel": kernel, "steps": steps}
            made[f"full-gd {statement} {kernel}"] = "full-gd", options
        rate = f"{kernel}-rate"
        for statement in (rate, "stationarity", "printed-stationarity", "run"):
            steps = 20_000 if statement == "run" else 2000
            options = {"statement": statement, "kernel": kernel, "steps": steps}
            made[f"query-gd {statement} {kernel}"] = "query-gd", options
        for engine in ("fused", "torch"):
            options = {"kernel": kernel, "engine": engine, "seeds": 2, "step": "local", **RUN}
            made[f"full-gd {engine} {kernel}"] = "full-gd", options | SMALL | {"init": "normal"}
            made[f"query-gd {engine} {kernel}"] = "query-gd", options | SMALL | {"init": "normal"}
    for data in ("orthonormal", "digits"):
        made[f"full-gd {data}"] = "full-gd", {"data": data, "samples": 4, "tokens": 2, "steps": 60}
    for init in ("normal", "paired"):
        options = {**SMALL, **RUN, "init": init, "scales": "2,2,1,1", "step": "0.01"}
        made[f"full-gd {init}"] = "full-gd", options
    made["full-gd sharpness"] = "full-gd", {**SMALL, "sharpness": True, "steps": 40}
    made["full-gd float32"] = "full-gd", {**SMALL, "dtype": "float32", "steps": 40}
    made["full-gd outputs"] = "full-gd", {**SMALL, "outputs": 2, "heads": 4, "steps": 40}
    made["full-gd seeds"] = "full-gd", {**SMALL, "seeds": 3, "seed": 5, "steps": 40}
    made["full-gd one step"] = "full-gd", {"steps": 1}
    return made


def _modules() -> dict[str, tuple[str, Options]]:
    """Any torch module: every statement and loss."""
    made: dict[str, tuple[str, Options]] = {
        f"generic-gd {name}": ("generic-gd", {"statement": name, "steps": 60})
        for name in ("run", "product", "kernel")
    }
    made["generic-gd seeds"] = "generic-gd", {"steps": 40, "seeds": 2, "sharpness": True}
    return made


def _problems() -> dict[str, tuple[str, Options]]:
    """Named problems, with the options they suggest."""
    named = {
        "full-gd": ("stacked-witness", "stacked-aligned", "stacked-stationary", "narrow-head",
                    "too-few-heads"),
        "query-gd": ("printed-stationarity", "softmax-trap", "gaussian-trap"),
        "ntk-regime": ("kink",),
    }  # fmt: skip
    gaussian = {"stacked-stationary", "gaussian-trap"}
    made: dict[str, tuple[str, Options]] = {}
    for theorem, names in named.items():
        for name in names:
            kernel: Options = {"kernel": "gaussian"} if name in gaussian else {}
            made[f"{theorem} {name}"] = theorem, {"problem": name, "steps": 200, **kernel}
    return made


def _encoder() -> dict[str, tuple[str, Options]]:
    """The encoder: statements, activations, scalings, losses, initializations; multi-head too."""
    made: dict[str, tuple[str, Options]] = {}
    for statement in ("paper", "relu-rigorous", "relu-sharp", "smooth", "run", "linearised",
                      "ladder"):  # fmt: skip
        options = {**LAZY, "statement": statement}
        made[f"ntk-regime {statement}"] = "ntk-regime", options
    for name, value in (("activation", "gelu"), ("activation", "silu"), ("scaling", "sqrt"),
                        ("loss", "mean"), ("init", "he"), ("init", "ntk"), ("data", "digits"),
                        ("step", "local")):  # fmt: skip
        made[f"ntk-regime {name} {value}"] = "ntk-regime", {**LAZY, name: value}
    for statement in ("run", "linearised", "ladder"):
        options = {**SMALL, "model": "multihead", "statement": statement, "steps": 30}
        made[f"ntk-regime multihead {statement}"] = "ntk-regime", options
    return made


def _claims() -> dict[str, tuple[str, Options]]:
    """Theorems without descent: every statement is judged in one check."""
    small = {"samples": 3, "tokens": 2, "embedding": 2, "steps": 200}
    return {
        "attention-hessian": ("attention-hessian", {}),
        "attention-hessian small": ("attention-hessian", {"tokens": 3, "head_dim": 2, "seed": 1}),
        "convex-attention": ("convex-attention", {}),
        "convex-attention small": ("convex-attention", {**small, "seed": 2}),
    }


SETTINGS = {**_attention(), **_problems(), **_encoder(), **_claims(), **_modules()}

SHORT = (
    "full-gd stacked-witness", "full-gd block-free softmax", "full-gd fused gaussian",
    "full-gd sharpness", "query-gd softmax-rate softmax", "ntk-regime kink",
    "ntk-regime activation gelu", "ntk-regime multihead linearised",
)  # fmt: skip
"""Part of it that the suite compares."""


def _column(values: np.ndarray) -> list[Any]:
    """First, middle and last entry, and a digest of all."""
    ends = [values[i] for i in (0, len(values) // 2, len(values) - 1)]
    raw = "\n".join(map(str, values)).encode() if values.dtype == object else values.tobytes()
    return [*(e.item() if isinstance(e, np.generic) else e for e in ends),
            hashlib.sha256(raw).hexdigest()[:12]]  # fmt: skip


def measure(theorem: str, options: Options) -> dict[str, Any]:
    """Verdicts, rates, margins, hypotheses, runs and trace of one check."""
    import gdconv

    check = gdconv.check(theorem, **options)
    text = check.to_json()
    statements = {}
    for s in text["statements"]:
        hypotheses = [[h["name"], h["lhs"], h["rhs"], h["holds"]] for h in s["hypotheses"]]
        left_out = ("name", "hypotheses")
        row = {k: v for k, v in s.items() if k not in left_out}
        statements[s["name"]] = {**row, "hypotheses": hypotheses}
    trace = {str(c): _column(check.trace[c].to_numpy()) for c in check.trace.columns}
    return json.loads(json.dumps(
        {"verdict": check.verdict, "level": check.level, "statements": statements,
         "runs": text["runs"], "messages": len(check.messages), "rows": len(check.trace),
         "trace": trace},
        default=float,
    ))  # fmt: skip


def differences(kept: Any, now: Any, loose: bool, where: str = "") -> list[str]:
    """Places where two measurements differ; NaN equals NaN, and a digest counts only exactly."""
    if isinstance(kept, dict) and isinstance(now, dict):
        odd = sorted(kept.keys() ^ now.keys())
        shared = [k for k in kept if k in now]
        inner = [d for k in shared for d in differences(kept[k], now[k], loose, f"{where}/{k}")]
        return [f"{where}/{k}: in one of them only" for k in odd] + inner
    if isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        if loose and kept and kept[0] == now[0] and kept[0] in NOISE:
            return differences(kept[3], now[3], loose, where)
        pairs = enumerate(zip(kept, now, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, loose, f"{where}/{i}")]
    if kept == now or (kept != kept and now != now):
        return []
    numbers = all(isinstance(v, float | int) and not isinstance(v, bool) for v in (kept, now))
    if loose and numbers and math.isclose(kept, now, rel_tol=LOOSE, abs_tol=1e-12):
        return []
    if loose and "/trace/" in where and isinstance(kept, str):
        return []
    return [f"{where}: {kept!r} is now {now!r}"]


def main(argv: list[str] | None = None) -> int:
    """Measure all and compare; exit code 1 when something differs."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="settings; all when left out")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--loose", action="store_true")
    asked = parser.parse_args(argv)
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    now = {n: measure(*SETTINGS[n]) for n in tqdm(asked.names or SETTINGS, disable=None)}
    if asked.write:
        merged = {n: now.get(n, kept.get(n)) for n in SETTINGS}
        lines = [f"{json.dumps(n)}: {json.dumps(made)}" for n, made in merged.items()]
        KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
        return 0
    found = [d for n in now for d in differences(kept.get(n), now[n], asked.loose, n)]
    print("\n".join(found[:200]))
    print(f"{len(now)} settings, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
