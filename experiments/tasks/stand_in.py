"""A generated stand-in for a text task, for where no reviews are at hand. It is no real text.

A text is a few short clauses in random order, such as "the plot was not really dull". A clause
about the film counts +1 or -1 by its adjective, and "not" or "never" turns it around; clauses about
something else (the book, the weather) are distractors and count nothing. The label is the sign of
the sum, over an odd number of clauses about the film, so there are no ties.

Which adjective counts, and how, depends on other words of its clause: a count of words alone gets
part of the labels right, a reader of clauses all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAME = "stand-in (generated text)"
"""What the task is called wherever its results appear."""

FILM = ("film", "plot", "acting", "script")
OTHER = ("book", "weather", "popcorn", "crowd")
GOOD = ("great", "lovely", "funny", "clever", "moving")
BAD = ("dull", "awful", "boring", "clumsy", "stale")
NOT = ("not", "never")
FILLERS = ("really", "quite")
VERBS = ("was", "seemed")

NEGATED = 0.25
"""Share of clauses with a negation."""

FILLED = 0.4
"""Share of clauses with a word between negation and adjective that means nothing here."""

LONGEST = 34
"""Most words of a text: 5 clauses of at most 6 words, and stops between them."""

STREAM = 7
"""Separate random stream, so that a seed used elsewhere does not repeat these numbers."""


def stand_in_texts(samples: int, seed: int = 0, part: int = 0) -> tuple[list[str], np.ndarray]:
    """Generated texts and their labels.

    Args:
        samples: How many.
        seed: Seed.
        part: Independent parts of one seed, for training and testing.

    Returns:
        Texts, and labels 0 or 1.

    Example:
        >>> texts, labels = stand_in_texts(3)
        >>> [label_of(text) for text in texts] == labels.tolist()
        True
    """
    rng = np.random.default_rng([STREAM, seed, part])
    texts = [_text(rng) for _ in range(samples)]
    return texts, np.array([label_of(text) for text in texts], dtype=np.int64)


def label_of(text: str) -> int:
    """The label by the rule, read off the words.

    Args:
        text: A generated text.

    Returns:
        1 if the clauses about the film add up to more than 0, else 0.

    Example:
        >>> label_of("the film was not dull . the book was dull")
        1
    """
    total = 0
    for clause in text.split(" . "):
        words = clause.split()
        if words[1] in FILM:
            value = 1 if words[-1] in GOOD else -1
            total += -value if any(word in NOT for word in words) else value
    return int(total > 0)


def _text(rng: np.random.Generator) -> str:
    """Three clauses about the film and one or two distractors, shuffled."""
    subjects = [_one(rng, FILM) for _ in range(3)]
    subjects += [_one(rng, OTHER) for _ in range(int(rng.integers(1, 3)))]
    return " . ".join(_clause(rng, subjects[i]) for i in rng.permutation(len(subjects)))


def _clause(rng: np.random.Generator, subject: str) -> str:
    """One clause."""
    words = ["the", subject, _one(rng, VERBS)]
    if rng.random() < NEGATED:
        words.append(_one(rng, NOT))
    if rng.random() < FILLED:
        words.append(_one(rng, FILLERS))
    words.append(_one(rng, GOOD if rng.random() < 0.5 else BAD))
    return " ".join(words)


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
