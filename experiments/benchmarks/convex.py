"""Time to solve the convex attention program: CVXPY with Clarabel, celer, skglm and ours.

    python -m experiments.benchmarks.convex [--quick] [--out FILE.json]

N = 200 samples of n = 32 Gaussian tokens, d = 64, four tokens in the target, noise; squared loss;
beta = 0.5, 0.1, 0.02 beta_max. One process, one thread, rounds interleaved, everything compiled on
a small problem first. Each contestant is asked for a relative gap of 1e-6 and the gap its weights
really have is certified afterwards, outside the clock. Ours starts from the raw arrays in every
round and its time includes the certificate. Clarabel's time is given twice: the whole call, and
what the solver itself reports. A library that is not installed is "absent".
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.benchmarks.timing import alone, medians, save, timed

CONTESTANTS = ("clarabel", "celer", "skglm", "descent", "newton")
BASELINE = "clarabel"
SHAPE = (200, 32, 64)
PARTS = (0.5, 0.1, 0.02)
TOLERANCE = 1e-6
LIBRARIES = {"clarabel": ("cvxpy", "clarabel"), "celer": ("celer",), "skglm": ("skglm",)}


def problem(shape: tuple[int, int, int], seed: int = 0) -> tuple[Any, Any]:
    """Gaussian tokens and a target of four of them.

    Args:
        shape: (N, n, d).
        seed: Of the draw.

    Returns:
        X (N, n, d) and y (N).

    Example:
        >>> X, y = problem((3, 5, 2))
        >>> X.shape, y.shape
        ((3, 5, 2), (3,))
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape)
    Z = np.zeros(shape[1:])
    Z[:4] = rng.standard_normal((4, shape[2]))[: shape[1]]
    return X, np.einsum("nkd,kd->n", X, Z) + 0.5 * rng.standard_normal(shape[0])


def _clarabel(X: Any, y: Any, beta: float) -> tuple[Any, dict[str, float]]:
    """CVXPY's interior-point route."""
    cp: Any = importlib.import_module("cvxpy")

    N, n, d = X.shape
    Z = cp.Variable((n, d))
    p = X.reshape(N, -1) @ cp.vec(Z, order="C")
    task = cp.Problem(cp.Minimize(cp.sum_squares(p - y) + beta * cp.sum(cp.norm(Z, 2, axis=1))))
    task.solve(solver=cp.CLARABEL, tol_gap_rel=TOLERANCE, tol_gap_abs=1e-12, max_threads=1)
    return Z.value, {"solver_ms": 1e3 * task.solver_stats.solve_time}


def _celer(X: Any, y: Any, beta: float) -> tuple[Any, dict[str, float]]:
    """celer's group lasso: |y - Xw|^2/(2N) + alpha sum |w_g|."""
    N, n, d = X.shape
    fit = importlib.import_module("celer").GroupLasso(
        groups=d, alpha=beta / (2 * N), fit_intercept=False, tol=TOLERANCE
    )
    return fit.fit(X.reshape(N, -1), y).coef_.reshape(n, d), {}


def _skglm(X: Any, y: Any, beta: float) -> tuple[Any, dict[str, float]]:
    """skglm's group lasso, the same scaling."""
    N, n, d = X.shape
    fit = importlib.import_module("skglm").GroupLasso(
        groups=d, alpha=beta / (2 * N), fit_intercept=False, tol=TOLERANCE
    )
    return fit.fit(X.reshape(N, -1), y).coef_.reshape(n, d), {}


def _ours(X: Any, y: Any, beta: float, method: str) -> tuple[Any, dict[str, float]]:
    """gdconv, certificate included."""
    from gdconv.convex.group_lasso import token_program
    from gdconv.convex.solvers.fast import CERTIFIED, solve

    found = solve(token_program(X, y, beta), TOLERANCE, method=method)
    return found.Z[:, :, 0], {"certified": float(found.status == CERTIFIED)}


def contestant(name: str) -> Callable[[Any, Any, float], tuple[Any, dict[str, float]]]:
    """The contestant of that name.

    Args:
        name: One of CONTESTANTS.

    Returns:
        A function of X, y and beta.

    Example:
        >>> Z, extra = contestant("newton")(*problem((5, 3, 2)), 0.5)
        >>> Z.shape, extra
        ((3, 2), {'certified': 1.0})
    """
    if name in ("newton", "descent"):
        return lambda X, y, beta: _ours(X, y, beta, name)
    return {"clarabel": _clarabel, "celer": _celer, "skglm": _skglm}[name]


def measure(part: float, rounds: int, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Time all contestants at one weight decay.

    Args:
        part: beta over beta_max.
        rounds: Interleaved rounds.
        shape: (N, n, d).

    Returns:
        Medians in milliseconds, ratios to the baseline, certified gaps.
    """
    import numpy as np

    from gdconv.convex.dual import beta_max, certify
    from gdconv.convex.group_lasso import token_program

    X, y = problem(shape)
    beta = part * beta_max(token_program(X, y, 1.0)).lo
    program = token_program(X, y, beta)
    found: dict[str, list[tuple[Any, dict[str, float]]]] = {}

    def run(name: str) -> None:
        found.setdefault(name, []).append(contestant(name)(X, y, beta))

    names = [
        c for c in CONTESTANTS if all(importlib.util.find_spec(m) for m in LIBRARIES.get(c, ()))
    ]
    times = timed({name: partial(run, name) for name in names}, rounds, warm=False)
    gaps, active = {}, {}
    for name in names:
        Z = found[name][-1][0]
        gaps[name] = certify(program, Z[:, :, None]).relative_gap
        sizes = np.sqrt(np.square(Z).sum(1))
        active[name] = int((sizes > 1e-6 * sizes.max()).sum())
    row: dict[str, Any] = {
        "beta_over_beta_max": part,
        "shape": dict(zip(("N", "n", "d"), shape, strict=True)),
        "asked_relative_gap": TOLERANCE,
        "ms": medians(times),
        "fastest_ms": {name: min(t) for name, t in times.items()},
        "certified_relative_gap": gaps,
        "gap_reached": {name: gap <= TOLERANCE for name, gap in gaps.items()},
        "active_tokens": active,
    }
    if BASELINE in names:
        solver = [extra["solver_ms"] for _, extra in found[BASELINE]]
        row["clarabel_solver_ms"] = float(np.median(solver))
        row["times_faster_than_clarabel"] = medians(times, times[BASELINE])
        row["times_faster_than_clarabel_solver_alone"] = medians(times, solver)
    return row


def _show(row: dict[str, Any]) -> str:
    cells = [f"{row['beta_over_beta_max']:6.2f}"]
    for name in CONTESTANTS:
        if name not in row["ms"]:
            cells.append(f"{'absent':>34s}")
            continue
        ratio = row.get("times_faster_than_clarabel", {}).get(name, float("nan"))
        gap = row["certified_relative_gap"][name]
        cells.append(f"{row['ms'][name]:10.2f} ms {ratio:7.1f}x gap {gap:7.1e}")
    return " ".join(cells)


def main() -> None:
    """Command line."""
    options = alone(__doc__, "convex", "two rounds instead of seven")
    warnings.simplefilter("ignore")  # contestants that stop short of their gap say so by warnings
    measure(0.1, 2, (10, 4, 3))  # compile
    print("  beta " + " ".join(f"{name:>34s}" for name in CONTESTANTS))
    rows = []
    for part in PARTS:
        rows.append(measure(part, 2 if options.quick else 7))
        print(_show(rows[-1]), flush=True)
    save(options.out, {"rows": rows}, "cvxpy", "clarabel", "celer", "skglm")


if __name__ == "__main__":
    main()
