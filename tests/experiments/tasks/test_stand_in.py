"""The generated stand-in: its rule, its name, and what a count of words alone can tell."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.tasks import stand_in
from experiments.tasks.stand_in import BAD, FILM, GOOD, NOT, label_of, stand_in_texts


def read_clauses(text: str) -> int:
    """The label by another route: a sign per clause, words looked up anywhere in it."""
    votes = []
    for clause in text.split("."):
        words = set(clause.split())
        if words & set(FILM):
            votes.append((-1) ** len(words & set(NOT)) * (1 if words & set(GOOD) else -1))
    assert len(votes) % 2 == 1
    return int(sum(votes) > 0)


def counted(texts: list[str]) -> np.ndarray:
    """Counts of words."""
    words = sorted({word for text in texts for word in text.split()})
    column = {word: i for i, word in enumerate(words)}
    table = np.zeros((len(texts), len(words)))
    for row, text in zip(table, texts, strict=True):
        for word in text.split():
            row[column[word]] += 1
    return table


def test_labels_follow_the_rule() -> None:
    texts, labels = stand_in_texts(500, seed=1)
    assert [read_clauses(text) for text in texts] == labels.tolist()


def test_a_reader_without_negation_is_wrong_often() -> None:
    """Control: the rule without "not" and "never" contradicts many labels."""
    texts, labels = stand_in_texts(500, seed=1)
    blind = [label_of(" ".join(w for w in text.split() if w not in NOT)) for text in texts]
    assert 0.2 < (np.array(blind) != labels).mean() < 0.5


def test_words_alone_tell_some_labels_but_not_all() -> None:
    """Not hopeless, so that training starts, and not trivial: attention has something to add."""
    texts, labels = stand_in_texts(6000, seed=0)
    table = counted(texts)
    fitted = LogisticRegression(C=0.1, max_iter=200).fit(table[:4000], labels[:4000])
    assert 0.58 < fitted.score(table[4000:], labels[4000:]) < 0.72


def test_classes_are_balanced_and_parts_differ() -> None:
    texts, labels = stand_in_texts(4000, seed=0)
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert texts[:50] != stand_in_texts(50, seed=0, part=1)[0]
    assert texts[:50] == stand_in_texts(50, seed=0)[0]


def test_no_text_is_longer_than_said_and_the_name_says_what_it_is() -> None:
    texts, _ = stand_in_texts(2000, seed=3)
    assert max(len(text.split()) for text in texts) <= stand_in.LONGEST
    assert not set(BAD) & set(GOOD)
    assert "stand-in" in stand_in.NAME
