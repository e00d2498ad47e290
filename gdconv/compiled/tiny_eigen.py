"""Smallest eigenvalue of a k x k symmetric matrix: guessed by Jacobi, certified by Cholesky.

lambda_min is certified from below by a Cholesky factorisation of A - s I that runs to its end:
lambda_min(A) >= s - 2 gamma_{k+3} (trace + k |s|), gamma_k = k u / (1 - k u), u = 2^-53 (the
backward error of Cholesky is at most gamma_{k+1} |L| |L^T|, whose norm is at most the trace).
"""

from __future__ import annotations

import numpy as np

from gdconv.compiled.cache import njit

UP = 1.0 + 1e-10
"""Inflation of positive sums of fewer than 4e5 terms: their relative error is below 5e-11."""

SMALL = 1e-7
"""Sweeps stop at off-diagonal entries of this relative size; eigenvalues are good to 1e-14."""


@njit(nogil=True)
def gamma(k):  # type: ignore[no-untyped-def]
    """k u / (1 - k u), rounded up."""
    return k * 1.1102230246251565e-16 / (1.0 - k * 1.1102230246251565e-16) * (1.0 + 1e-14)


@njit(nogil=True)
def smallest(A, V, C):  # type: ignore[no-untyped-def]
    """Jacobi sweeps on A, started from the basis V; nothing here needs to be accurate.

    Args:
        A: Symmetric k x k matrix, overwritten with the nearly diagonal V^T A V.
        V: Nearly orthogonal k x k basis, turned further.
        C: Scratch, k x k.

    Returns:
        The column of V that belongs to the smallest eigenvalue.
    """
    k = A.shape[0]
    for _ in range(2):  # A <- V^T A V, as two products with a transposition
        for p in range(k):
            for q in range(k):
                x = 0.0
                for r in range(k):
                    x += A[p, r] * V[r, q]
                C[q, p] = x
        A[:] = C
    for _ in range(30):
        off = 0.0
        for p in range(k):
            for q in range(p):
                off = max(off, abs(A[p, q]) / np.sqrt(abs(A[p, p] * A[q, q]) + 1e-300))
        if not off > SMALL:
            break
        for p in range(k):
            for q in range(p):
                if A[p, q] == 0.0:
                    continue
                tau = (A[q, q] - A[p, p]) / (2.0 * A[p, q])
                t = (1.0 if tau >= 0.0 else -1.0) / (abs(tau) + np.sqrt(1.0 + tau * tau))
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = t * c
                for r in range(k):
                    x, y = A[r, p], A[r, q]
                    A[r, p], A[r, q] = c * x - s * y, s * x + c * y
                for r in range(k):
                    x, y = A[p, r], A[q, r]
                    A[p, r], A[q, r] = c * x - s * y, s * x + c * y
                for r in range(k):
                    x, y = V[r, p], V[r, q]
                    V[r, p], V[r, q] = c * x - s * y, s * x + c * y
    best = 0
    for p in range(k):
        if A[p, p] < A[best, best]:
            best = p
    return best


@njit(nogil=True)
def _factors(A, s, C):  # type: ignore[no-untyped-def]
    """Does the Cholesky factorisation of A - s I run to its end?"""
    k = A.shape[0]
    for i in range(k):
        for j in range(i + 1):
            x = A[i, j]
            if i == j:
                x -= s
            for p in range(j):
                x -= C[i, p] * C[j, p]
            if i == j:
                if not x > 0.0:
                    return False
                C[i, i] = np.sqrt(x)
            else:
                C[i, j] = x / C[j, j]
    return True


@njit(nogil=True)
def least(A, guess, C):  # type: ignore[no-untyped-def]
    """Certified lower bound of lambda_min(A).

    Args:
        A: Symmetric k x k matrix.
        guess: Approximate lambda_min.
        C: Scratch, k x k.

    Returns:
        A lower bound, at most `guess`; -inf when none was found.
    """
    k = A.shape[0]
    trace = 0.0
    for p in range(k):
        trace += abs(A[p, p])
    margin = 16.0 * k * 1.1e-16 * trace
    for _ in range(10):
        s = guess - margin
        if _factors(A, s, C):
            return s - 2.0 * gamma(k + 3) * (trace + k * abs(s)) * UP
        margin *= 16.0
    return -np.inf
