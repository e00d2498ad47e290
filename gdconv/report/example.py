"""A check made by hand with known verdicts: examples and tests of reports run on it in no time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

STATEMENTS = {"stacked": 4.0, "per-head": 0.7, "block-free": 0.9, "kernel": 1e-9, "run": 0.95}
"""Name of the statement and its rate as a multiple of the true one; above 1 it is refuted."""

ORDER = ("refuted", "undecided", "outside", "vacuous", "confirmed")


@dataclass
class ExampleCheck:
    """The fields of `gdconv.checks.result.Check` that reports read.

    Example:
        >>> example_check().verdict
        'confirmed'
    """

    theorem: str
    title: str
    source: str
    statement: str
    level: str
    config: dict[str, Any]
    environment: dict[str, Any]
    verdict: str
    verdicts: pd.DataFrame
    hypotheses: pd.DataFrame
    trace: pd.DataFrame
    runs: pd.DataFrame
    messages: list[str] = field(default_factory=list)
    starts: dict[str, np.ndarray] = field(default_factory=dict)


def _steps(last: int) -> np.ndarray:
    """Geometrically thinned steps 0, 1, ... last."""
    return np.unique(np.concatenate([[0, last], np.geomspace(1, last, 120).astype(int)]))


def _trace(
    run: int, last: int, slow: float, share: float, rng: np.random.Generator
) -> pd.DataFrame:
    t = _steps(last)
    ratio = (1 - share) * np.exp(-40 * slow * t) + share * np.exp(-slow * t)
    sigma = 0.11 * (1 + 0.15 * np.tanh(t * slow) + 0.01 * rng.standard_normal())
    frame = pd.DataFrame({"run": run, "step": t, "loss": 8.0 * ratio, "loss_ratio": ratio})
    frame["sigma_min_lo"], frame["sigma_min_hi"] = sigma * 0.995, sigma * 1.005
    frame["grad_norm"], frame["pl_ratio"] = np.sqrt(ratio), 1.0 + 0 * t
    for name in ("distance", "distance_Q", "distance_K", "distance_V"):
        frame[name] = np.sqrt(1 - ratio)
    frame["defect"], frame["noise"] = 1e-17, 1e-15
    for name, factor in STATEMENTS.items():
        frame[f"bound[{name}]"] = np.exp(-factor * slow * t)
    return frame


def _verdict(name: str, ratio: np.ndarray, bound: np.ndarray, t: np.ndarray) -> dict[str, Any]:
    margin = np.log(bound[1:]) - np.log(ratio[1:])
    broken = np.flatnonzero(margin < 0)
    informative = np.flatnonzero(bound < 0.9)
    verdict = "refuted" if broken.size else "confirmed" if informative.size else "vacuous"
    log_rate = float(np.log(bound[-1]) / t[-1])
    return {
        "statement": name,
        "verdict": verdict,
        "worst_margin": float(margin.min()),
        "worst_step": int(t[1:][margin.argmin()]),
        "first_violation": int(t[1:][broken[0]]) if broken.size else -1,
        "half_life": float(-np.log(2) / log_rate),
        "tightness": float(np.log(bound[-1]) / np.log(ratio[-1])),
        "rate": -log_rate / 0.05,
        "step": 0.05,
        "eta_rate": -log_rate,
        "bound_last": float(bound[-1]),
        "informative_step": int(t[informative[0]]) if informative.size else -1,
        "compared_until": int(t[-1]),
        "noise_ratio": 1e-7,
        "note": "",
    }


def _hypotheses(run: int) -> pd.DataFrame:
    columns = ["run", "statement", "hypothesis", "lhs", "relation", "rhs", "margin", "holds"]
    rows = [
        [
            run,
            "per-head",
            "sigma_0^2 outweighs the value path",
            0.0121 + run / 1e3,
            ">=",
            0.011,
            1.1,
            "true",
        ],
        [
            run,
            "per-head",
            "sigma_0^3 outweighs the drift of B",
            1.3e-3,
            ">=",
            1.2e-3,
            1.083,
            "true",
        ],
        [run, "stacked", "H D >= N n", 64.0, ">=", 16.0, 4.0, "true"],
        [run, "run", "a-posteriori product is positive", 0.77, ">", 0.0, np.inf, "true"],
    ]
    return pd.DataFrame(rows, columns=columns)


def example_check(
    runs: int = 2,
    statement: str = "per-head",
    last: int = 4000,
    kernel: str = "softmax",
    log_drop: float = 18.0,
) -> ExampleCheck:
    """Runs that fall by exp(-log_drop) with a fast and a slow mode, compared with five bounds.

    Args:
        runs: Number of replicas.
        statement: The one judged.
        last: Number of steps.
        kernel: Named in the config.
        log_drop: Natural log of the fall of the slow mode.

    Returns:
        A check whose statement `stacked` is refuted, `kernel` vacuous and the others confirmed.

    Example:
        >>> check = example_check(runs=3)
        >>> check.verdicts.query("run == 0")["verdict"].tolist()
        ['refuted', 'confirmed', 'confirmed', 'vacuous', 'confirmed']
    """
    rng = np.random.default_rng(0)
    traces, verdicts, sides, rows = [], [], [], []
    for run in range(runs):
        frame = _trace(run, last, log_drop / last * (1 + 0.1 * run), 0.2 / (1 + run), rng)
        t, ratio = frame["step"].to_numpy(), frame["loss_ratio"].to_numpy()
        for name in STATEMENTS:
            verdicts.append(
                {"run": run} | _verdict(name, ratio, frame[f"bound[{name}]"].to_numpy(), t)
            )
        traces.append(frame)
        sides.append(_hypotheses(run))
        rows.append({
            "run": run,
            "seed": 7 + run,
            "loss_first": 8.0,
            "loss_last": 8.0 * ratio[-1],
            "loss_ratio_last": ratio[-1],
            "sigma_min_first": frame["sigma_min_lo"].iloc[0],
            "sigma_min_least": frame["sigma_min_lo"].min(),
            "steps": last,
            "step": 0.05,
            "stopped": "steps reached",
            "note": "",
        })
    table = pd.DataFrame(verdicts)
    judged = set(table.loc[table["statement"] == statement, "verdict"])
    shapes = {"X": (8, 2, 32), "y": (8, 2, 1), "W_Q": (8, 32, 8), "W_O": (8, 8, 1)}
    return ExampleCheck(
        theorem="full-gd",
        title="Full-parameter gradient descent on one-layer multi-head attention",
        source="Song, Han, Zhang, Ding, Hong (2024), arXiv:2411.07538, Theorem 1",
        statement=statement,
        level="float64",
        config={
            "theorem": "full-gd",
            "statement": statement,
            "kernel": kernel,
            "data": "digits",
            "samples": 8,
            "tokens": 2,
            "seeds": runs,
            "seed": 7,
            "steps": last,
            "step": "local",
            "out": None,
            "json": False,
            "quiet": True,
        },
        environment={"python": "3.11", "packages": {"numpy": "2"}},
        verdict=next(v for v in ORDER if v in judged),
        verdicts=table,
        hypotheses=pd.concat(sides, ignore_index=True),
        trace=pd.concat(traces, ignore_index=True),
        runs=pd.DataFrame(rows),
        messages=["digits: constant pixels were kept"],
        starts={k: rng.standard_normal((runs, *s)) for k, s in shapes.items()},
    )
