"""Long stress of the enclosure of sigma_min along a run: every step against the exact value.

    python tests/stress_tracking.py --steps 100000

At each step B is formed in integers times a power of two from the stored weights and tokens, and
lo <= sigma_min(B) <= hi is decided by the exact characteristic polynomial of B B^T: no rounding and
no code in common with the tracker. A walk is one shape, one way for the weights to move, one scale,
asked width and block size, all drawn from its number; the summary keeps what the finished walks
found, so an interrupted run goes on where it stopped. Exit code 1 when a step is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flint import fmpq_poly, fmpz_mat

from gdconv.compiled.sigma_tracker import new_tracker, track
from gdconv.compiled.simd import padded, zeros
from gdconv.rigor.sylvester import _all_roots_at_least, _integers, _square

SUMMARY = Path(__file__).resolve().parent.parent / "results" / "tracker_stress.json"
STEPS = 200
"""Steps of one walk."""

SHAPES = [  # N, n, D, H
    (1, 1, 3, 1), (1, 2, 5, 2), (2, 2, 8, 1), (1, 4, 2, 2), (4, 1, 4, 1),  # at most four rows
    (3, 2, 4, 2), (2, 3, 4, 2), (5, 1, 6, 1), (7, 1, 3, 3), (4, 2, 9, 1),  # padded lanes
    (3, 2, 3, 2), (8, 1, 8, 1), (3, 3, 3, 3),  # square
    (9, 1, 5, 2), (10, 1, 17, 1), (2, 4, 3, 3), (6, 2, 7, 2),  # two blocks of lanes, more rows
    (5, 4, 12, 2), (16, 1, 20, 1), (3, 6, 6, 4),  # larger blocks of eigenvectors
    (2, 2, 3, 1),  # more rows than columns
]  # fmt: skip


def exactly_contains(X: np.ndarray, S: np.ndarray, lo: float, hi: float) -> bool:
    """Whether lo <= sigma_T(B) <= hi for B = [B^(1) ... B^(H)], B^(h)_i = S_ih X_i, exactly.

    Args:
        X: Tokens, shape (N, n, D).
        S: Weights, shape (N, H, n, n).
        lo: Lower end.
        hi: Upper end.

    Returns:
        The exact answer.
    """
    N, H, n, _ = S.shape
    if N * n > H * X.shape[2]:
        return lo <= 0.0 <= hi
    left, e = _integers(S.reshape(-1, n))
    right, f = _integers(X.reshape(N * n, -1))
    weights, tokens = left.tolist(), right.tolist()
    B = []
    for i in range(N):
        x = fmpz_mat(tokens[i * n : (i + 1) * n])
        first = i * H * n
        parts = [
            (fmpz_mat(weights[first + h * n : first + (h + 1) * n]) * x).tolist() for h in range(H)
        ]
        B += [[z for part in parts for z in part[a]] for a in range(n)]
    matrix = fmpz_mat(B)
    poly = fmpq_poly((matrix * matrix.transpose()).charpoly())
    if lo > 0.0 and not _all_roots_at_least(poly, _square(lo, e + f), strict=False):
        return False
    return hi == np.inf or not _all_roots_at_least(poly, _square(hi, e + f), strict=True)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def walk_weights(
    drift: str, rng: np.random.Generator, N: int, H: int, n: int
) -> Iterator[np.ndarray]:
    """Endless weights (N, H, n, n) that move in the named way."""
    shape = (N, H, n, n)
    start, way = 2.0 * rng.standard_normal(shape), rng.standard_normal(shape)
    size = 10.0 ** rng.uniform(-4, 0)
    scores, t, power = start.copy(), 0, 0
    identity = np.broadcast_to(np.eye(n), shape)
    while True:
        if drift == "random walk":
            scores = scores + size * rng.standard_normal(shape)
            S = softmax(scores)
        elif drift == "one direction":
            S = softmax(start + 0.3 * size * t * way)
        elif drift == "oscillating":
            S = softmax(start + 3.0 * size * np.sin(0.2 * t) * way)
        elif drift == "jumps":
            jump = rng.random() < 0.05
            scores = 3.0 * rng.standard_normal(shape) if jump else scores
            S = softmax(scores + 1e-4 * rng.standard_normal(shape))
        elif drift == "towards uniform":  # all rows of a sample become equal: sigma_min -> 0
            S = softmax(start * 0.9**t)
        elif drift == "towards one-hot":
            S = softmax(start * min(1.05**t, 300.0))
        elif drift == "one large weight":
            S = softmax(np.where(np.arange(n) == 0, start + 0.2 * t, start))
        elif drift == "nearly singular":  # two rows come together and part again
            S = softmax(start)
            distance = 10.0 ** -(0.18 * min(t, STEPS - t))
            S[0, :, -1] = S[0, :, 0] + distance * way[0, :, -1]
        elif drift == "exactly singular":
            scores = scores + 0.01 * rng.standard_normal(shape)
            S = softmax(scores)
            if t % 40 < 20:
                S[-1, :, -1] = S[-1, :, 0]
        elif drift == "multiple values":  # with orthogonal tokens all singular values are equal
            S = identity * (1.0 + t / 64.0) + (size * 1e-6 * way if t % 20 > 10 else 0.0)
        elif drift == "signed":
            scores = scores + 0.1 * size * rng.standard_normal(shape)
            S = scores
        elif drift == "graded rows":
            scores = scores + 0.1 * size * rng.standard_normal(shape)
            S = softmax(scores) * np.geomspace(1.0, 10.0**-3, n)[:, None]
        elif drift == "wild scales":
            power = int(np.clip(power + rng.integers(-60, 61), -550, 500))
            S = np.ldexp(softmax(start), power)
        else:  # "returns": excursions and the very same weights again
            S = softmax(start + (0.5 * rng.standard_normal(shape) if t % 3 else 0.0))
        yield S
        t += 1


DRIFTS = [
    "random walk", "one direction", "oscillating", "jumps", "towards uniform", "towards one-hot",
    "one large weight", "nearly singular", "exactly singular", "multiple values", "signed",
    "graded rows", "wild scales", "returns",
]  # fmt: skip


def tokens_of(drift: str, rng: np.random.Generator, N: int, n: int, D: int) -> np.ndarray:
    """Tokens (N, n, D), from tiny to huge."""
    if drift == "multiple values" and N * n <= D:
        return np.eye(D)[: N * n].reshape(N, n, D) * 2.0 ** int(rng.integers(-9, 10))
    X = rng.standard_normal((N, n, D))
    extreme = rng.random() < 0.2
    if rng.random() < 0.5:
        X = np.ldexp(X, int(rng.choice([-545, -480, 480] if extreme else [-330, -30, 30, 330])))
    if rng.random() < 0.2:
        X = X * np.geomspace(1.0, 1e-4, D)
    return X


def walk(number: int, steps: int = STEPS, every: int = 1) -> dict[str, Any]:
    """One walk, drawn from its number.

    Args:
        number: Of the walk; all its random choices follow from it.
        steps: Its length.
        every: Every how many steps the exact value is computed.

    Returns:
        Counts, the drift's name, and the wrong steps.
    """
    rng = np.random.default_rng([20, number])
    drift = DRIFTS[number % len(DRIFTS)]
    N, n, D, H = SHAPES[int(rng.integers(len(SHAPES)))]
    X = tokens_of(drift, rng, N, n, D)
    tol = float(rng.choice([0.3, 0.01, 0.01, 1e-3, 1e-6]))
    tracker = new_tracker(X, H, tol, block=int(rng.choice([0, 0, 1, 2, 8])))
    weights = walk_weights(drift, rng, N, H, n)
    wrong, exact, positive = [], 0, 0
    flat = zeros(H * n * n * padded(N))
    for step in range(steps):
        S = next(weights)
        if drift == "jumps" and step % 50 == 25:  # a broken step must not spoil the next ones
            S = S.copy()
            S[0, 0, 0, 0] = (np.nan, np.inf)[step // 50 % 2]
        flat.reshape(H, n, n, padded(N))[..., :N] = S.transpose(1, 2, 3, 0)
        with np.errstate(all="ignore"):
            lo, hi = (float(x) for x in track(tracker, flat))
        positive += lo > 0.0
        if not np.isfinite(S).all():
            right, exact = (lo, hi) == ((0.0, np.inf) if N * n <= H * D else (0.0, 0.0)), exact + 1
        elif step % every == 0:
            right, exact = exactly_contains(X, S, lo, hi), exact + 1
        else:
            right = 0.0 <= lo <= hi
        if not right:
            wrong.append({"walk": number, "step": step, "lo": lo, "hi": hi})
    state = tracker.state[0]
    return {
        "drift": drift, "steps": steps, "checked exactly": exact, "positive lower end": positive,
        "wider than asked": int(state["loose"]), "block checks": int(state["checks"]),
        "anchors": int(state["anchors"]), "wrong": wrong,
    }  # fmt: skip


def add(total: dict[str, Any], one: dict[str, Any]) -> None:
    """Add a walk to the summary."""
    rows = [total["all"], total["drifts"].setdefault(one["drift"], {})]
    for row in rows:
        row["walks"] = row.get("walks", 0) + 1
        for key, value in one.items():
            if isinstance(value, int):
                row[key] = row.get(key, 0) + value
    total["wrong steps"] += one["wrong"]


def main(argv: list[str] | None = None) -> int:
    """Run or resume the stress.

    Args:
        argv: Command line.

    Returns:
        0 when no step was wrong, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="in all, earlier runs included")
    parser.add_argument("--every", type=int, default=1, help="steps per exact check")
    parser.add_argument("--out", type=Path, default=SUMMARY)
    parser.add_argument("--restart", action="store_true", help="forget the walks of earlier runs")
    args = parser.parse_args(argv)
    total: dict[str, Any] = {"seconds": 0.0, "all": {}, "drifts": {}, "wrong steps": []}
    if args.out.exists() and not args.restart:
        total = json.loads(args.out.read_text("utf-8"))
    began, before = time.perf_counter(), total["seconds"]
    while total["all"].get("steps", 0) < args.steps:
        add(total, walk(total["all"].get("walks", 0), every=args.every))
        total["seconds"] = round(before + time.perf_counter() - began, 1)
        if total["all"]["walks"] % 10 == 0 or total["all"]["steps"] >= args.steps:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(total, indent=1) + "\n", "utf-8")
            print(f"{total['all']}, wrong: {len(total['wrong steps'])}", flush=True)
    return 1 if total["wrong steps"] else 0


if __name__ == "__main__":
    sys.exit(main())
