"""What the experiments share: kept units, processes, messages, statistics."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.harness.command import carried_out
from experiments.harness.statistics import paired
from experiments.harness.units import Lines, kept_arrays
from experiments.harness.workers import in_processes
from gdconv.support.errors import InputError
from gdconv.support.files import replaced

HEAD = {"preset": {"seeds": 2, "sizes": (1, 2)}}


@dataclass(frozen=True)
class Word:
    """A unit whose result is its length."""

    key: str
    cost: float = 2.0


WORDS = [Word("a"), Word("bc"), Word("def")]


class Measured:
    """Measures lengths, notes whose, and is interrupted at one word."""

    def __init__(self, stop: str = "") -> None:
        self.words: list[str] = []
        self.stop = stop

    def __call__(self, unit: Word, tell: Callable[[float], object]) -> dict[str, int]:
        if unit.key == self.stop:
            raise KeyboardInterrupt
        self.words.append(unit.key)
        tell(1.0)
        return {"length": len(unit.key)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Lines of all words."""
    Lines(tmp_path / "units.jsonl", HEAD).run(WORDS, Measured())
    return tmp_path / "units.jsonl"


def again(file: Path) -> list[str]:
    """Words that are measured once more; the file and the results must be as before."""
    measured = Measured()
    found = Lines(file, HEAD).run(WORDS, measured)
    assert list(found.values()) == [{"length": n} for n in (1, 2, 3)]
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert lines[0] == json.loads(json.dumps(HEAD))
    assert [line["key"] for line in lines[1:]] == ["a", "bc", "def"]
    return measured.words


def test_what_is_there_is_not_measured_again(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert again(file) == []
    assert "3 of 3 runs are there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lost", "missing"),
    [(1, ["def"]), (5, ["def"]), (40, ["bc", "def"]), (90, ["a", "bc", "def"])],
)
def test_a_file_cut_anywhere_goes_on(file: Path, lost: int, missing: list[str]) -> None:
    """In the last line, at its end (all but the line break is there), earlier, in the head."""
    file.write_bytes(file.read_bytes()[:-lost])
    assert again(file) == missing


def test_an_interrupted_run_keeps_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "units.jsonl"
    with pytest.raises(KeyboardInterrupt):
        Lines(file, HEAD).run(WORDS, Measured(stop="def"))
    assert again(file) == ["def"]


def test_another_preset_is_refused(file: Path) -> None:
    before = file.read_bytes()
    for head in ({"preset": {"seeds": 3, "sizes": (1, 2)}}, {"mark": 1}):
        with pytest.raises(InputError, match="another preset"):
            Lines(file, head)
    assert file.read_bytes() == before


@pytest.mark.parametrize("line", ["not a row", '{"length": 1}', "[1]", "3"])
def test_foreign_rows_are_refused(file: Path, line: str) -> None:
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", "utf-8")
    with pytest.raises(InputError, match="line 3 is no row"):
        Lines(file, HEAD)


def test_units_of_another_plan_stay_and_are_left_out(file: Path) -> None:
    """Keys that name everything need no head: a larger plan goes on in the same file."""
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")
    measured = Measured()
    found = Lines(file).run([Word("long"), WORDS[1]], measured)
    assert measured.words == ["long"]
    assert list(found) == ["long", "bc"]
    assert list(Lines(file).done) == ["a", "bc", "def", "long"]


def test_a_damaged_or_foreign_array_is_made_again(tmp_path: Path) -> None:
    place, calls = tmp_path / "new" / "grid.npz", 0

    def make() -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        return {"z": np.full(3, float(calls))}

    given = {"mark": "one", "axis": np.arange(3.0)}
    first, same = (kept_arrays(place, given, make) for _ in range(2))
    assert calls == 1
    np.testing.assert_array_equal(first["z"], same["z"])
    for changed in ({"mark": "two"}, {"axis": np.arange(4.0)}, {"extra": 1}):
        kept_arrays(place, given | changed, make)
    assert calls == 4
    place.write_bytes(place.read_bytes()[:200])
    assert kept_arrays(place, given | {"extra": 1}, make)["z"][0] == 5.0
    assert list(place.parent.iterdir()) == [place]


def test_an_interrupted_write_leaves_the_file_before(tmp_path: Path) -> None:
    place = tmp_path / "a"
    with replaced(place) as stream:
        stream.write(b"whole")
    with contextlib.suppress(KeyboardInterrupt), replaced(place) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert place.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [place]


WORK = """
import os, time
def work(unit, tell):
    for _ in range(400):
        if unit < 0:
            raise ValueError("no unit")
        tell(1)
        time.sleep(0.1 if unit == 0 else 0)
    if unit == 0:
        open(__file__ + ".ended", "w").close()
    return 10 * unit, os.getpid()
"""


def test_processes_give_results_in_order_and_an_error_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit that takes 40 s beside the one that fails is stopped at its next report."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import work_of_a_test  # type: ignore[import-not-found]

    made = in_processes([1, 2, 3], work_of_a_test.work, 2, 1200, "tens")
    here = in_processes([1, 2, 3], work_of_a_test.work, 1, 1200, "tens")
    assert [ten for ten, _ in made] == [ten for ten, _ in here] == [10, 20, 30]
    assert not {process for _, process in made} & {process for _, process in here}
    with pytest.raises(ValueError, match="no unit"):
        in_processes([-1, 0], work_of_a_test.work, 2, 800, "tens")
    assert not (tmp_path / "work_of_a_test.py.ended").exists()


def test_control_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert carried_out(interrupted, Path("report.md")) == 130
    assert "goes on" in capsys.readouterr().err
    assert carried_out(interrupted, Path("report.md"), kept=False) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_paired_agrees_with_ttest_and_all_signs() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 6))
    made = paired(one - other)
    test = stats.ttest_rel(one, other)
    assert made["p_t"] == pytest.approx(test.pvalue, rel=1e-12)
    interval = test.confidence_interval(0.95)
    assert (made["lo"], made["hi"]) == pytest.approx((interval.low, interval.high), rel=1e-12)
    sums = np.abs([np.dot(signs, one - other) for signs in product((1, -1), repeat=6)])
    assert made["p_flip"] == pytest.approx((sums >= sums[0] * (1 - 1e-12)).mean(), rel=1e-12)


def test_few_or_equal_differences_have_no_test() -> None:
    assert math.isnan(paired(np.array([1.0]))["lo"])
    assert math.isnan(paired(np.array([]))["mean"])
    for gap in (0.0, 0.5):
        equal = paired(np.full(3, gap))
        assert (equal["lo"], equal["hi"]) == pytest.approx((gap, gap))
        assert math.isnan(equal["p_t"])
        assert equal["p_flip"] == (1.0 if gap == 0 else 0.25)
    assert math.isnan(paired(np.arange(16.0))["p_flip"])
