"""Control-C waits inside the block, the second one does not."""

from __future__ import annotations

import signal
import threading

import pytest

from gdconv.support.interruption import deferred


def test_it_waits_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred() as pressed:
        signal.raise_signal(signal.SIGINT)
        assert pressed
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_twice_is_meant() -> None:
    with deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_nested_blocks_share_the_outer_one() -> None:
    with deferred() as outer:
        with deferred() as inner:
            signal.raise_signal(signal.SIGINT)
        assert not inner
        assert outer


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with deferred() as pressed:
            seen.append(pressed)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
