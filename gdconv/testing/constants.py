"""Search for a point at which claimed constants of a Jacobian are too small.

Random directions, then ascent: with (a, b) the first singular pair of J(theta + u) - J(theta), the
derivative of a^T J(theta) b is the direction along which that pair grows most.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STARTS, ROUNDS = 4, 4
ROUNDING = 1e-10


def exceeded(
    J_at: Callable[[np.ndarray], np.ndarray], p: int, rho: float, M: float, G_squared: float
) -> str:
    """Where |J(u) - J(0)| > M |u| or |J(u)|^2 > G^2 for some |u| <= rho.

    Args:
        J_at: Displacement (p,) to the Jacobian (m, p) there.
        p: Parameters.
        rho: Radius.
        M: Claimed Lipschitz constant of J.
        G_squared: Claimed bound of |J|^2.

    Returns:
        One sentence; empty where nothing was found.

    Example:
        >>> exceeded(lambda u: u[None], 2, 0.5, M=1.0, G_squared=0.25)
        ''
        >>> exceeded(lambda u: u[None], 2, 0.5, M=0.5, G_squared=0.25)
        '|J(theta + u) - J(theta)| = 0.5 at |u| = 0.5, more than M |u| = 0.25'
    """
    here, rng = J_at(np.zeros(p)), np.random.default_rng(4)
    slack = ROUNDING * float(np.linalg.norm(here))
    for kind in ("change", "size"):
        for _ in range(STARTS):
            u = _scaled(rng.standard_normal(p), rho)
            for _ in range(ROUNDS):
                there = J_at(u)
                change, size = _size(there - here), _size(there)
                if not change <= M * rho * (1 + 1e-9) + slack:
                    return (
                        f"|J(theta + u) - J(theta)| = {change:.6g} at |u| = {rho:g}, more than "
                        f"M |u| = {M * rho:.6g}"
                    )
                if not size**2 <= G_squared * (1 + 1e-9) + slack**2:
                    return (
                        f"|J(theta + u)|^2 = {size**2:.6g} at |u| = {rho:g}, more than "
                        f"G^2 = {G_squared:.6g}"
                    )
                left, _, right = np.linalg.svd(there - here if kind == "change" else there)
                a, b = left[:, 0], right[0]
                h = 1e-5 * max(rho, 1e-2)
                at = np.zeros(p) if kind == "change" else u
                rising = (J_at(at + h * b).T @ a - J_at(at - h * b).T @ a) / (2 * h)
                u = _scaled(rising if np.linalg.norm(rising) > 0 else rng.standard_normal(p), rho)
    return ""


def _scaled(u: np.ndarray, rho: float) -> np.ndarray:
    return np.asarray(u * (rho / np.linalg.norm(u)))


def _size(A: np.ndarray) -> float:
    """Spectral norm; nan for what is not finite."""
    return float(np.linalg.norm(A, 2)) if np.isfinite(A).all() else float("nan")
