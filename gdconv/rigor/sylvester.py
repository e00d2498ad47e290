"""The smallest singular value of an exact matrix, by inertia: slow, any number of digits.

Eigenvalues of B B^T are located by signs alone: L D L^T of B B^T - lambda I in balls (Sylvester's
law, Cauchy interlacing), or, for small matrices, the exact characteristic polynomial. The float64
enclosures of gdconv.rigor.spectrum are tested against both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from flint import arb, arb_mat, fmpq, fmpq_poly, fmpz_mat
from numpy.typing import ArrayLike

from gdconv.rigor.balls import MAX_PRECISION, Certified, square_sum, working_precision
from gdconv.rigor.spectrum import Enclosure, as_matrix
from gdconv.support.errors import InputError


def _integers(A: np.ndarray) -> tuple[fmpz_mat, int]:
    """Integer matrix Z and exponent e with A = Z 2^e exactly."""
    mantissa, exponent = np.frexp(A)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    used = exponent[whole != 0] - 53
    e = int(used.min()) if used.size else 0
    rows = [
        [int(z) << (int(k) - 53 - e) if z else 0 for z, k in zip(zs, ks, strict=True)]
        for zs, ks in zip(whole, exponent, strict=True)
    ]
    return fmpz_mat(rows), e


def _characteristic(A: np.ndarray) -> tuple[fmpq_poly, int]:
    """Exact characteristic polynomial of Z Z^T and the exponent e, A = Z 2^e."""
    Z, e = _integers(A)
    return fmpq_poly((Z * Z.transpose()).charpoly()), e


def _all_roots_at_least(poly: fmpq_poly, shift: fmpq, strict: bool) -> bool:
    """Whether all roots of a real-rooted polynomial are >= shift (> shift if strict).

    The roots of poly(x + shift) are all >= 0 exactly when its coefficients alternate weakly in
    sign (Descartes' rule is exact for real-rooted polynomials); 0 is a root iff the constant term
    is 0.

    Args:
        poly: Monic polynomial with real roots only.
        shift: The number compared with.
        strict: Whether equality counts as False.

    Returns:
        The exact answer.
    """
    c = poly(fmpq_poly([shift, 1])).coeffs()
    top = len(c) - 1
    if strict and c[0] == 0:
        return False
    return all((x >= 0) if (top - i) % 2 == 0 else (x <= 0) for i, x in enumerate(c))


def _square(x: float, e: int) -> fmpq:
    """(x 2^-e)^2 exactly."""
    exact = Fraction(x) ** 2
    return fmpq(exact.numerator, exact.denominator) * (fmpq(2) ** (-2 * e))


def contains_sigma_min(B: ArrayLike, box: Enclosure) -> bool:
    """Decide exactly whether lo <= sigma_T(B) <= hi, T the number of rows; meant for small T.

    Exact rational arithmetic on the characteristic polynomial of B B^T, no rounding anywhere.

    Args:
        B: Matrix of shape (T, p).
        box: The claimed enclosure; hi may be infinite.

    Returns:
        True when the enclosure is right.

    Raises:
        InputError: B is no finite real matrix that float64 holds exactly, or has no rows.

    Example:
        >>> contains_sigma_min([[3.0, 0.0], [0.0, 2.0]], Enclosure(2.0, 2.0))
        True
        >>> contains_sigma_min([[3.0, 0.0], [0.0, 2.0]], Enclosure(2.1, 3.0))
        False
    """
    A = as_matrix(B)
    if A.shape[0] == 0:
        raise InputError("B", f"a matrix of shape {A.shape}", "give at least one row")
    if A.shape[0] > A.shape[1]:
        return box.lo <= 0.0 <= box.hi
    poly, e = _characteristic(A)
    if box.lo > 0.0 and not _all_roots_at_least(poly, _square(box.lo, e), strict=False):
        return False
    if box.hi < 0.0:
        return False
    return box.hi == math.inf or not _all_roots_at_least(poly, _square(box.hi, e), strict=True)


def _negative_pivots(M: list[list[arb]], shift: arb) -> int | None:
    """Whether M has an eigenvalue below shift, by L D L^T of M - shift I in balls.

    All pivots positive prove M - shift I > 0 (Sylvester); a first negative pivot after positive
    ones makes a leading block indefinite, hence M - shift I too (Cauchy interlacing).

    Args:
        M: Symmetric ball matrix.
        shift: The number compared with.

    Returns:
        0 for none, 1 for at least one, None when a pivot is undecided at this precision.
    """
    n = len(M)
    rows = [list(M[i][: i + 1]) for i in range(n)]
    for j in range(n):
        pivot = rows[j][j] - shift
        if not pivot > 0:
            return 1 if pivot < 0 else None
        inverse = 1 / pivot
        column = [rows[i][j] for i in range(j + 1, n)]
        for i in range(j + 1, n):
            factor = column[i - j - 1] * inverse
            row = rows[i]
            for k in range(j + 1, i + 1):
                row[k] -= factor * column[k - j - 1]
    return 0


def _rayleigh(M: arb_mat, x: arb_mat) -> arb:
    """x^T M x / x^T x, an upper bound of lambda_min for any x."""
    y = M * x
    top = sum((a * b for a, b in zip(x.entries(), y.entries(), strict=True)), arb(0))
    return top / square_sum([x])


def _sharpen(M: arb_mat, shift: arb, x: arb_mat, rounds: int) -> arb_mat:
    """Inverse iteration for the eigenvector of lambda_min; a guess only, so midpoints suffice."""
    n = M.nrows()
    diagonal = [shift.mid() if i == j else arb(0) for i in range(n) for j in range(n)]
    shifted = M.mid() - arb_mat(n, n, diagonal)
    for _ in range(rounds):
        try:
            x = _unit(shifted.solve(x).mid())
        except ZeroDivisionError:
            return x
    return x


def _unit(x: arb_mat) -> arb_mat:
    """Vector scaled to about norm one, so that exponents stay small."""
    norm = square_sum([x]).sqrt().mid()
    return (x * (1 / norm)).mid() if norm > 0 else x


def _search(
    M: arb_mat, lower: arb, upper: arb, relative: arb, patience: int
) -> tuple[arb, arb, bool]:
    """Narrow lower <= lambda_min(M) <= upper; True when the relative width is below `relative`."""
    n = M.nrows()
    table = M.tolist()
    x = _unit(arb_mat([[arb(1 + ((7 * i + 3) % 11)) * (-1) ** i] for i in range(n)]))
    for _ in range(patience):
        x = _sharpen(M, lower, x, 2)
        quotient = _rayleigh(M, x).upper()
        upper = quotient if quotient < upper else upper
        if upper - lower <= relative * lower:
            return lower, upper, True
        test = (upper * (1 - relative / 2)).mid()
        below = _negative_pivots(table, test) if test > lower else None
        if below == 0:
            return test, upper, True
        if below is None:
            return lower, upper, False
        upper = test  # at least one eigenvalue lies below
        middle = ((lower * upper).sqrt() if lower > 0 else upper / 1024).mid()
        below = _negative_pivots(table, middle)
        if below == 0:
            lower = middle
        elif below == 1:
            upper = middle
    return lower, upper, False


def certified_sigma_min(
    B: ArrayLike | Callable[[int], arb_mat], digits: int = 15, limit: int = MAX_PRECISION
) -> Certified:
    """Certified smallest singular value (of row rank) of an exact float64 matrix.

    Upper ends come from Rayleigh quotients, lower ends from the inertia of B B^T - lambda I in
    balls; the precision doubles whenever a pivot is undecided; 0 is proved by the exact rank.

    Args:
        B: Matrix of shape (T, p), or a function that maps a precision in bits to a ball matrix.
        digits: Wanted decimal digits.
        limit: Greatest precision in bits.

    Returns:
        sigma_T(B); `reached` is False when the precision did not suffice.

    Raises:
        InputError: B is no finite real matrix that float64 holds exactly, or has no rows.

    Example:
        >>> certified_sigma_min([[3.0, 0.0], [0.0, 2.0]]).mid
        2.0
        >>> certified_sigma_min([[1.0, 2.0], [2.0, 4.0]]).mid
        0.0
    """
    zero = Certified(arb(0), 53, True)
    if callable(B):
        with working_precision(106):
            first = B(106)
        m, p = first.nrows(), first.ncols()
        gram, scale, exact = _ball_gram(B), arb(1), None
    else:
        A = as_matrix(B)
        if A.shape[0] == 0:
            raise InputError("B", f"a matrix of shape {A.shape}", "give at least one row")
        m, p = A.shape
        if m > p:
            return zero
        exact, e = _integers(A)
        product = exact * exact.transpose()
        gram, scale = (lambda bits: arb_mat(product)), arb(2) ** e
    if m > p:
        return zero
    return _climb(gram, scale, exact, digits, limit)


def _ball_gram(B: Callable[[int], arb_mat]) -> Callable[[int], arb_mat]:
    def gram(bits: int) -> arb_mat:
        M = B(bits)
        return M * M.transpose()

    return gram


def _climb(
    gram: Callable[[int], arb_mat], scale: arb, exact: fmpz_mat | None, digits: int, limit: int
) -> Certified:
    """Double the precision until sqrt(lambda_min) is known to `digits` digits."""
    precision, lower, upper = max(128, 4 * digits), arb(0), arb("+inf")
    ranked = exact is None
    while True:
        with working_precision(precision):
            M = gram(precision)
            for i in range(M.nrows()):  # lambda_min is at most each diagonal entry
                cap = M[i, i].upper()
                upper = cap if cap < upper else upper
            relative = arb(10) ** -(digits + 3)
            lower, upper, done = _search(M, lower, upper, relative, 12 + precision // 16)
            if not done and not ranked and exact is not None:
                ranked = True
                if exact.rank() < exact.nrows():
                    return Certified(arb(0), precision, True)
            if done or 2 * precision > limit:
                root = lower.sqrt().union(upper.sqrt()) * scale
                return Certified(root, precision, done)
        precision *= 2
