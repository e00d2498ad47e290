"""Control-C waits inside the block, the second one does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

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


@pytest.mark.parametrize(("last", "code"), [("forget()", 130), ("pass", -signal.SIGINT)])
def test_what_was_caught_in_an_exec_does_not_end_the_process(
    last: str, code: int, tmp_path: Path
) -> None:
    """`python -m`; without it (second case) CPython dies of a signal that was dealt with."""
    (tmp_path / "caught.py").write_text(
        "from gdconv.support.interruption import forget\n"
        "try:\n    exec('raise KeyboardInterrupt')\nexcept KeyboardInterrupt:\n    pass\n"
        f"{last}\nraise SystemExit(130)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "caught"], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == code
