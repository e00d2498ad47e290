"""Ten thousand command lines and ten thousand damaged files: no traceback, no hang, one sentence.

    python tests/fuzz/run.py                        both, resuming where the last run stopped
    python tests/fuzz/run.py --kind lines --count 500
    python tests/fuzz/run.py --kind files --one 1234   what case 1234 is and does

Each case comes from its number alone. Faults are listed in results/fuzz.json; exit code 1 if any.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fuzz import damaged, forked, lines

KINDS = ("lines", "files")
ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "results" / "fuzz.json"
STATE = ROOT / "runs" / "fuzz"
PIECE = 500
THREADS = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}


def sources(folder: Path) -> dict[str, Path]:
    """Sound files of every kind, from which the damaged ones are made."""
    from gdconv.cli import main as cli

    rng = np.random.default_rng(0)
    made = {
        "npz": folder / "data.npz",
        "tar": folder / "aclImdb.tar.gz",
        "csv": folder / "texts.csv",
    }
    np.savez(made["npz"], X=rng.standard_normal((2, 2, 4)), y=rng.standard_normal((2, 2)))
    with tarfile.open(made["tar"], "w:gz") as tar:
        for part in ("train", "test"):
            for label, score in (("pos", 9), ("neg", 1)):
                for i in range(3):
                    text = folder / "review.txt"
                    text.write_text(f"a film number {i} that is {label}")
                    tar.add(text, f"aclImdb/{part}/{label}/{i}_{score}.txt")
    made["csv"].write_text("text,label\n" + "".join(f"word {i} here,{i % 2}\n" for i in range(12)))
    mnist = made["idx"] = folder / "mnist"
    mnist.mkdir()
    for part, name in (("train", "train"), ("t10k", "t10k")):
        images = (
            struct.pack(">4i", 2051, 6, 28, 28) + rng.integers(0, 256, 6 * 784, np.uint8).tobytes()
        )
        labels = struct.pack(">2i", 2049, 6) + bytes(range(6))
        (mnist / f"{part}-images-idx3-ubyte").write_bytes(images)
        (mnist / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    runs = folder / "runs"
    base = [
        "check",
        "full-gd",
        "--problem",
        "stacked-witness",
        "--steps",
        "3",
        "--out",
        str(runs),
        "--quiet",
    ]
    if forked.run(lambda: cli.main(base)).code not in (0, 1, 3):
        raise RuntimeError("the sound run could not be made")
    (made["run"],) = (p for p in runs.iterdir() if not p.name.startswith("."))
    return made


def file_case(number: int, sound: dict[str, Path], place: Path) -> tuple[str, Callable[[], int]]:
    """Make damaged file `number` in `place`; what it is, and the call that reads it."""
    from gdconv.cli import main as cli

    rng = random.Random(f"file {number}")
    kind = rng.choice(("npz", "npz", "witness", "run", "run", "run", "tar", "csv", "idx"))
    if kind == "run":
        runs = place / "runs"
        runs.mkdir()
        target = runs / sound["run"].name
        damaged.run_damaged(rng, sound["run"], target)
        words = rng.choice((["table", str(runs)], ["table", str(target)], ["replay", str(target)]))
        return f"{kind}: {words[0]}", lambda: cli.main(words)
    if kind in ("npz", "witness"):
        source = sound["npz"] if kind == "npz" else sound["run"] / "iterates.npz"
        file = place / "file.npz"
        file.write_bytes(damaged.zip_damaged(rng, source.read_bytes()))
        option = "--data" if kind == "npz" else rng.choice(("--problem", "--data"))
        words = [
            "check",
            rng.choice(("full-gd", "query-gd", "ntk-regime")),
            option,
            str(file),
            "--steps=2",
        ]
        return f"{kind}: {option}", lambda: cli.main(words)
    if kind == "idx":
        folder = place / "mnist"
        shutil.copytree(sound["idx"], folder)
        file = rng.choice(sorted(folder.iterdir()))
        if rng.random() < 0.4:
            packed = damaged.wrapped(damaged.idx_damaged)(rng, file.read_bytes())
            (folder / (file.name + ".gz")).write_bytes(packed)
            file.unlink()
        else:
            file.write_bytes(damaged.idx_damaged(rng, file.read_bytes()))
        words = [
            "check",
            "ntk-regime",
            "--data",
            str(folder),
            "--samples=2",
            "--steps=2",
            "--width=8",
        ]
        return f"{kind}: {file.name}", lambda: cli.main(words)
    source = sound[kind]
    damage = damaged.tar_damaged if kind == "tar" else damaged.csv_damaged
    file = place / source.name
    file.write_bytes(damage(rng, source.read_bytes()))
    return kind, lambda: reader(kind, file)


def reader(kind: str, file: Path) -> int:
    """Read texts as an experiment would: 0, or 2 with the sentence of the error."""
    from experiments.tasks.text_sources import read_csv, read_imdb
    from gdconv.support.errors import InputError

    try:
        (read_imdb if kind == "tar" else read_csv)(file)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def line_case(number: int, place: Path) -> tuple[str, Callable[[], int]]:
    """Command line `number`; it runs in `place`, a fresh folder."""
    from gdconv.cli import main as cli

    words = [str(place / "out") if w == "OUT" else w for w in lines.command_line(number)]

    def call() -> int:
        with chdir(place):
            return cli.main(words)

    return " ".join(words), call


def cases(kind: str, numbers: range) -> Iterator[tuple[int, str, forked.Outcome]]:
    """Try some cases one after the other."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name)
        sound = sources(base) if kind == "files" else {}
        for number in numbers:
            place = base / f"case-{number}"
            place.mkdir()
            made = file_case(number, sound, place) if kind == "files" else line_case(number, place)
            yield number, made[0], forked.run(made[1])
            shutil.rmtree(place, ignore_errors=True)


def faults_of(kind: str, numbers: range) -> list[dict[str, Any]]:
    """Cases that did what they must not, with their end of output."""
    return [
        {
            "kind": kind,
            "case": number,
            "what": ascii(what)[:300],
            "fault": outcome.fault,
            "output": outcome.output[-600:],
        }
        for number, what, outcome in cases(kind, numbers)
        if outcome.fault
    ]


def _nicely() -> None:
    os.nice(5)


def warm_up() -> None:
    """Import and compile what the cases use, once, before any fork."""
    os.environ["MPLBACKEND"] = "Agg"
    import torch
    from threadpoolctl import threadpool_limits

    import gdconv
    from experiments.tasks import text_sources  # noqa: F401
    from gdconv.cli import main as cli
    from gdconv.report import plots, tables  # noqa: F401

    torch.set_num_threads(1)
    threadpool_limits(1)
    for theorem in ("full-gd", "query-gd", "ntk-regime"):
        gdconv.check(theorem, steps=2)
    gdconv.check("ntk-regime", data="digits", samples=2, width=4, steps=2)
    for theorem, names in lines.QUICK.items():
        for name in names:
            gdconv.check(theorem, statement=name, samples=2, tokens=3, embedding=3)
    with tempfile.TemporaryDirectory() as folder:  # the first figure takes two seconds
        gdconv.check("convex-attention", statement="recovery").save(folder)
        with redirect_stdout(None):
            cli.main(["table", folder])
    gc.collect()
    gc.freeze()  # else every fork copies what its collector marks


def piece(kind: str | None, numbers: range) -> list[dict[str, Any]]:
    """One piece, of both kinds for None, in a process of its own: it forks, so it has one thread.

    Raises:
        RuntimeError: The process failed.
    """
    command = [sys.executable, __file__, "--piece", str(numbers.start), str(numbers.stop)]
    command += ["--kind", kind] if kind else []
    environment = os.environ | THREADS | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, preexec_fn=_nicely
    )
    if done.returncode:
        raise RuntimeError(f"{kind} {numbers}: {done.stderr[-2000:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def digest() -> str:
    """Hash of the code under test and of the cases."""
    made = hashlib.sha256()
    for folder in ("gdconv", "theorems", "tests/fuzz"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            made.update(path.read_bytes())
    return made.hexdigest()[:16]


def main(argv: list[str] | None = None) -> int:
    """Run what is not done yet, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", type=int, help="only this case, with all that it prints")
    parser.add_argument("--piece", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.one is not None or asked.piece:
        warm_up()
        if asked.piece:
            kinds = (asked.kind,) if asked.kind else KINDS
            found = [fault for kind in kinds for fault in faults_of(kind, range(*asked.piece))]
            print(json.dumps(found))
        else:
            for _, what, outcome in cases(asked.kind, range(asked.one, asked.one + 1)):
                print(
                    ascii(what),
                    outcome.output,
                    f"exit code {outcome.code}",
                    outcome.fault,
                    sep="\n",
                )
        return 0
    now, report = digest(), {}
    STATE.mkdir(parents=True, exist_ok=True)
    for kind in (asked.kind,) if asked.kind else KINDS:
        done: dict[str, Any] = {}
        state = STATE / f"{kind}-{now}.json"
        if state.exists():
            done = json.loads(state.read_text())
        starts = range(0, asked.count, PIECE)
        todo = [range(s, min(s + PIECE, asked.count)) for s in starts]
        todo = [r for r in todo if f"{r.start}-{r.stop}" not in done]
        with ThreadPoolExecutor(asked.workers) as pool:
            for numbers, found in zip(todo, pool.map(partial(piece, kind), todo), strict=True):
                done[f"{numbers.start}-{numbers.stop}"] = found
                state.write_text(json.dumps(done))
                print(f"{kind} {numbers.start} to {numbers.stop}: {len(found)} faults", flush=True)
        faults = [
            fault for r in sorted(done, key=lambda k: int(k.split("-")[0])) for fault in done[r]
        ]
        report[kind] = {"cases": asked.count, "faults": faults}
    if not asked.kind:
        REPORT.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return 1 if any(part["faults"] for part in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
