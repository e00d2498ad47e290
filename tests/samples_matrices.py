"""Nasty matrices for the tests of singular values: families, layouts and shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def _orthogonal(rng: np.random.Generator, k: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def _spectrum(rng: np.random.Generator, m: int, p: int, s: np.ndarray) -> np.ndarray:
    k = min(m, p)
    return (_orthogonal(rng, m)[:, :k] * s[:k]) @ _orthogonal(rng, p)[:k]


def _integer_singular(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    r = max(m - 1, 1)
    return (rng.integers(-9, 10, (m, r)) @ rng.integers(-9, 10, (r, p))).astype(float)


def _duplicate(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    B = rng.normal(size=(m, p))
    B[-1] = B[0] * rng.choice([1.0, -1.0, 2.0, 3.0])
    return B


def _graded(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return 10.0 ** np.linspace(0, -rng.uniform(0, 16), m)[:, None] * rng.normal(size=(m, p))


def _wild(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return np.ldexp(rng.normal(size=(m, p)), rng.integers(-1070, 1000, (m, p)))


def _vandermonde(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return np.vander(rng.uniform(-1, 1, m), p)


def _hilbert(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return 1.0 / (np.arange(m)[:, None] + np.arange(p) + 1 + rng.integers(0, 3))


def _sparse(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return rng.normal(size=(m, p)) * (rng.random((m, p)) < 0.4)


FAMILIES = {
    "normal": lambda rng, m, p: rng.normal(size=(m, p)),
    "integer": lambda rng, m, p: rng.integers(-3, 4, (m, p)).astype(float),
    "integer singular": _integer_singular,
    "duplicate": _duplicate,
    "graded rows": _graded,
    "graded columns": lambda rng, m, p: _graded(rng, p, m).T,
    "condition": lambda rng, m, p: _spectrum(rng, m, p, np.logspace(0, -rng.uniform(0, 16), m)),
    "clustered": lambda rng, m, p: _spectrum(rng, m, p, 1 + 1e-12 * rng.normal(size=m)),
    "cluster at the end": lambda rng, m, p: _spectrum(
        rng, m, p, np.r_[1.0, 1e-8 * (1 + 1e-10 * rng.normal(size=m - 1))]
    ),
    "equal": lambda rng, m, p: _spectrum(rng, m, p, np.ones(m)),
    "Hilbert": _hilbert,
    "Vandermonde": _vandermonde,
    "sparse": _sparse,
    "denormal": lambda rng, m, p: rng.normal(size=(m, p)) * 1e-320,
    "tiny": lambda rng, m, p: rng.normal(size=(m, p)) * 1e-300,
    "huge": lambda rng, m, p: rng.normal(size=(m, p)) * 1e300,
    "largest": lambda rng, m, p: rng.choice([-1.0, 1.0, 0.9], (m, p)) * np.finfo(float).max,
    "wild exponents": _wild,
    "ones": lambda rng, m, p: np.ones((m, p)) + 1e-16 * rng.integers(0, 20, (m, p)),
    "nearly dependent": lambda rng, m, p: np.ones((m, p)) + 1e-9 * rng.normal(size=(m, p)),
    "signed zeros": lambda rng, m, p: rng.choice([0.0, -0.0, 1.0], (m, p)),
}


def _strided(B: np.ndarray) -> np.ndarray:
    big = np.full((2 * B.shape[0], 3 * B.shape[1]), np.nan)
    big[::2, ::3] = B
    return big[::2, ::3]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda B: B[::-1, ::-1],
    "transposed view": lambda B: np.ascontiguousarray(B.T).T,
    "read-only": lambda B: np.broadcast_to(B, B.shape),
}


def cases(
    count: int, seed: int, rows: int = 6, columns: int = 8
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, matrix) pairs, cycling through families and layouts with random shapes."""
    rng = np.random.default_rng(seed)
    names, layouts = list(FAMILIES), list(LAYOUTS)
    for i in range(count):
        name = names[i % len(names)]
        m = int(rng.integers(1, rows + 1))
        p = int(rng.integers(1 if i % 10 == 0 else m, columns + 1))
        B = FAMILIES[name](rng, m, p)
        layout = layouts[int(rng.integers(len(layouts)))]
        yield f"{name} {m}x{p} {layout}", LAYOUTS[layout](B)
