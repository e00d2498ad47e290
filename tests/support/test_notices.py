"""A notice reaches who asked for it, once, and nobody else."""

from __future__ import annotations

import threading

from gdconv.support.notices import announce, announced


def test_each_sentence_once_within_the_block() -> None:
    said: list[str] = []
    announce("before")
    with announced(said.append):
        announce("a")
        announce("b")
        announce("a")
        other = threading.Thread(target=announce, args=("of another thread",))
        other.start()
        other.join()
        inner: list[str] = []
        with announced(inner.append):
            announce("a")
    announce("after")
    assert (said, inner) == (["a", "b"], ["a"])
