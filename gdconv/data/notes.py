"""Notes on data: why they may force sigma_min(B) = 0, and which run a note is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def degeneracies(X: np.ndarray, mask: np.ndarray | None = None) -> list[str]:
    """Why data alone force sigma_min(B) = 0.

    Args:
        X: Tokens, shape (N, n, D).
        mask: True for a real token, shape (N, n); None where all are.

    Returns:
        Sentences; none if no reason is found.

    Example:
        >>> degeneracies(np.ones((1, 2, 3)))[0][:42]
        '1 of 1 samples hold the same token twice ('
    """
    # A zero token is no reason by itself: its row of B is a mixture of the sample's other tokens.
    notes = []
    samples = [x if mask is None else x[mask[i]] for i, x in enumerate(X + 0.0)]  # -0.0 becomes 0.0
    keys = [[token.tobytes() for token in sample] for sample in samples]
    repeats = [i for i, sample in enumerate(keys) if len(set(sample)) < len(sample)]
    if repeats:
        notes.append(
            f"{len(repeats)} of {len(keys)} samples hold the same token twice (first: sample "
            f"{repeats[0]}): two rows of B are equal, so sigma_min(B) = 0 exactly."
        )
    zero = [i for i, sample in enumerate(samples) if len(sample) == 1 and not sample.any()]
    if zero:
        notes.append(f"Sample {zero[0]} is zero: its row of B is, so sigma_min(B) = 0 exactly.")
    seen: dict[tuple[bytes, ...], int] = {}
    for i, sample in enumerate(keys):
        other = seen.setdefault(tuple(sorted(sample)), i)
        if other != i:
            notes.append(
                f"Samples {other} and {i} hold the same tokens: rows of B are equal, so "
                "sigma_min(B) = 0 exactly."
            )
            break
    return notes


def merge_notes(per_run: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Notes that all runs share as they are, the others as "run r: ..."; order kept.

    Args:
        per_run: The notes of every run.

    Returns:
        The notes of all.

    Example:
        >>> merge_notes([["a", "b"], ["a"]])
        ('a', 'run 0: b')
    """
    merged: dict[str, None] = {}
    for run, notes in enumerate(per_run):
        for note in notes:
            shared = all(note in others for others in per_run)
            merged[note if shared else f"run {run}: {note}"] = None
    return tuple(merged)


def notes_of(notes: Sequence[str], run: int) -> list[str]:
    """The notes of one run, without the "run r: " mark (the inverse of `merge_notes`).

    Args:
        notes: The notes of all.
        run: Which run.

    Returns:
        Its notes.

    Example:
        >>> notes_of(("a", "run 0: b"), 1)
        ['a']
    """
    mark = f"run {run}: "
    return [
        note.removeprefix(mark)
        for note in notes
        if note.startswith(mark) or not note.startswith("run ")
    ]
