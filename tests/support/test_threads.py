"""The limit to one thread: nested, overlapping in any order, after errors; nothing stays behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  its BLAS is a second library with a number of its own
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from gdconv.compiled.descent import FusedRun
from gdconv.support.threads import one_thread

MANY = 3
"""Threads of the process outside the blocks."""

ABLE: set[str] = set()
"""BLAS libraries that can have so many; solvers bring builds that have one thread for ever."""


@pytest.fixture(autouse=True)
def several() -> Iterator[None]:
    """A process with several threads; the test session has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(MANY)
    with threadpool_limits(MANY):
        pools = [p for p in threadpool_info() if p["user_api"] == "blas"]
        ABLE.update(p["filepath"] for p in pools if p["num_threads"] == MANY)
        assert any("numpy" in path for path in ABLE)
        yield
    torch.set_num_threads(before)


def blas() -> set[int]:
    """Threads of BLAS, a number of the process."""
    return {pool["num_threads"] for pool in threadpool_info() if pool["filepath"] in ABLE}


def counts() -> set[int]:
    """Threads of torch, a number of the calling thread, and of BLAS.

    Other libraries with OpenMP give a new thread what the environment says, not what we set here.
    """
    return {torch.get_num_threads()} | blas()


class Inside(threading.Thread):
    """A thread that enters, waits to be told, and leaves."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(daemon=True)
        self.fails, self.seen = fails, [set[int]()] * 3
        self.entered, self.end = threading.Event(), threading.Event()
        self.start()
        assert self.entered.wait(30)

    def run(self) -> None:
        self.seen[0] = counts()
        try:
            with one_thread():
                self.seen[1] = counts()
                self.entered.set()
                assert self.end.wait(30)
                self.seen[1] |= counts()
                if self.fails:
                    raise KeyError
        except KeyError:
            pass
        self.seen[2] = counts()

    def leave(self) -> None:
        self.end.set()
        self.join(30)
        assert not self.is_alive()


def test_one_inside_and_as_before_outside() -> None:
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
    with one_thread():
        assert counts() == {1}
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}  # of any library
    assert counts() == {MANY}
    assert [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()] == before


@pytest.mark.parametrize("depth", [2, 5])
def test_blocks_in_one_another(depth: int) -> None:
    def go(left: int) -> None:
        with one_thread():
            if left:
                go(left - 1)
            assert counts() == {1}

    go(depth)
    assert counts() == {MANY}


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_overlapping_blocks_leave_in_any_order(order: tuple[int, ...]) -> None:
    threads = [Inside() for _ in range(3)]
    for k in order:
        threads[k].leave()
    assert counts() == {MANY}
    assert all(thread.seen[1] == {1} for thread in threads)


@pytest.mark.parametrize("main_leaves_first", [True, False])
def test_the_main_thread_overlaps_with_another(main_leaves_first: bool) -> None:
    with one_thread():
        other = Inside()
        if not main_leaves_first:
            other.leave()
        assert counts() == {1}
    if main_leaves_first:
        assert blas() == {1}
        other.leave()
    assert counts() == {MANY}
    assert other.seen[1] == {1}


def test_a_thread_gets_its_own_count_back_although_others_are_inside() -> None:
    first = Inside()
    second = Inside()
    second.leave()
    assert torch.get_num_threads() == MANY  # ours: with OpenMP it belongs to each thread
    first.leave()
    fresh = Inside()
    fresh.leave()
    assert fresh.seen[2] == {MANY}


def test_a_thread_that_met_torch_while_others_were_inside_is_not_held_to_one() -> None:
    other, met, free, seen = Inside(), threading.Event(), threading.Event(), list[set[int]]()

    def late() -> None:
        torch.get_num_threads()
        met.set()
        assert free.wait(30)
        with one_thread():
            seen.append(counts())
        seen.append(counts())

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    assert met.wait(30)
    other.leave()
    free.set()
    thread.join(30)
    assert seen == [{1}, {MANY}]
    assert counts() == {MANY}


@pytest.mark.parametrize("fails", [(True, False), (False, True), (True, True)])
def test_errors_leave_nothing_behind(fails: tuple[bool, bool]) -> None:
    threads = [Inside(f) for f in fails]
    for thread in threads:
        thread.leave()
    assert counts() == {MANY}
    with pytest.raises(KeyboardInterrupt), one_thread(), one_thread():
        raise KeyboardInterrupt
    assert counts() == {MANY}


def test_many_short_blocks_at_once() -> None:
    def go(k: int) -> bool:
        with one_thread(), one_thread():
            return counts() == {1}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(go, range(64)))
    assert counts() == {MANY}


def loops() -> list[Callable[[], object]]:
    """Two compiled loops, which limit BLAS around every call."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 2, 3)), rng.standard_normal((2, 2, 1))
    made = []
    for _ in range(2):
        weights = [rng.standard_normal((1, 3, 2)) for _ in range(3)]
        last = rng.standard_normal((1, 2, 1))
        made.append(FusedRun("softmax", X, y, *weights, last, eta=0.01).evaluate)
    return made


def test_compiled_loops_share_the_limit() -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            list(pool.map(lambda run: run(), loops()))
    assert counts() == {MANY}
    inside = Inside()
    for run in loops():
        run()
    assert blas() == {1}
    inside.leave()
    assert counts() == {MANY}


def test_checks_in_threads_leave_nothing_behind() -> None:
    import gdconv

    def go(seed: int) -> str:
        problem = ("stacked-witness", "narrow-head")[seed % 2]
        return gdconv.check("full-gd", problem=problem, steps=20).verdict

    with ThreadPoolExecutor(3) as pool:
        verdicts = list(pool.map(go, range(6)))
    assert len(verdicts) == 6
    assert counts() == {MANY}
