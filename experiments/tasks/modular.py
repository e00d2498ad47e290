"""Modular division: the table of a / b modulo a prime, split into a part to train on and the rest.

Every pair (a, b) with b != 0 is one question, its answer the c with b c = a (mod p). The table is
the usual task for the delay between fitting and generalising (Power et al. 2022); the networks of
`experiments.convex_attention.experiment` see it as three symbols a, b and p, the last one a mark
that asks for the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gdconv.support.errors import InputError

STREAM = 13
"""Separate random stream for the split."""

LARGEST = 2000
"""Largest p: its table has four million questions."""


def is_prime(p: int) -> bool:
    """Whether p is a prime, by trial division.

    Args:
        p: A whole number.

    Returns:
        True for a prime.

    Example:
        >>> [p for p in range(12) if is_prime(p)]
        [2, 3, 5, 7, 11]
    """
    return p > 1 and all(p % q for q in range(2, int(p**0.5) + 1))


@dataclass(frozen=True, eq=False)
class Questions:
    """Some rows of the table.

    Attributes:
        X: Symbols a, b, p (M, 3); p marks the place of the answer.
        y: Answers c (M), b c = a modulo p.

    Example:
        >>> table = division_table(3)
        >>> table.X[0].tolist(), int(table.y[0])
        ([0, 1, 3], 0)
    """

    X: Int[np.ndarray, "M 3"]
    y: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.y)


def division_table(p: int) -> Questions:
    """All p (p - 1) questions, ordered by a, then b.

    Args:
        p: A prime.

    Returns:
        The table.

    Raises:
        InputError: p is no prime, or above `LARGEST`.

    Example:
        >>> table = division_table(5)
        >>> len(table), bool(((table.X[:, 1] * table.y - table.X[:, 0]) % 5 == 0).all())
        (20, True)
    """
    if not is_prime(p) or p > LARGEST:
        raise InputError("p", p, f"give a prime of at most {LARGEST}")
    a, b = (part.ravel() for part in np.meshgrid(np.arange(p), np.arange(1, p), indexing="ij"))
    inverse = np.array([0] + [pow(q, -1, p) for q in range(1, p)])
    return Questions(np.stack([a, b, np.full_like(a, p)], 1), a * inverse[b] % p)


def division_task(p: int, share: float = 0.5, seed: int = 0) -> tuple[Questions, Questions]:
    """A random part of the table to train on and the rest to test on.

    Args:
        p: A prime.
        share: Part that is trained on.
        seed: Of the split.

    Returns:
        Training and test questions.

    Raises:
        InputError: A share that leaves one of them empty, or p is no prime.

    Example:
        >>> train, test = division_task(97)
        >>> len(train), len(test)
        (4656, 4656)
    """
    table = division_table(p)
    count = int(len(table) * share) if 0.0 < share < 1.0 else 0
    if not 0 < count < len(table):
        raise InputError("share", share, "give a number between 0 and 1 that leaves both parts")
    order = np.random.default_rng([STREAM, seed]).permutation(len(table))
    parts = (order[:count], order[count:])
    train, test = (Questions(table.X[rows], table.y[rows]) for rows in parts)
    return train, test
