"""Mutation run over the code that makes verdicts rigorous, with cosmic-ray.

    python tests/planted/mutants.py                   go on where the last run stopped
    python tests/planted/mutants.py gdconv/checks/judge.py   one module
    python tests/planted/mutants.py --report          only write results/mutants.json anew

Every mutant is tested by the test file that mirrors its module, and by no other. Sessions are
cosmic-ray's own data bases in runs/mutants, one per text of a module; when only the tests have
changed, the mutants that survived are tried again (--fresh tries all). A survivor is either argued
to be equivalent, by a line in `equivalent.txt` beside this file, or it counts as one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cosmic_ray.mutating
import cosmic_ray.plugins
from cosmic_ray.commands.init import init
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planted import scratch
from planted.warm import Warm

STRICT = (
    "gdconv/models/multihead/constants.py",
    "gdconv/models/encoder/constants.py",
    "gdconv/theory/certificates.py",
    "gdconv/compiled/ledger.py",
    "gdconv/checks/judge.py",
    "gdconv/theory/prediction.py",
    "gdconv/models/encoder/tangent_slack.py",
)
"""No mutant may survive here that is not argued to be equivalent."""

REST = (
    "gdconv/rigor/rounding.py",
    "gdconv/rigor/spectrum.py",
    "gdconv/convex/losses.py",
    "gdconv/support/npz.py",
    "gdconv/checks/store.py",
    "gdconv/support/config.py",
)
"""At least nine of ten must be noticed. tracking.py is compiled: its faults are in the table."""

OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul)"
    r"|ReplaceComparisonOperator_(Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Eq_NotEq"
    r"|NotEq_Eq|Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_(USub_UAdd|Delete_Not)|AddNot"
    r"|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer"
    r"|ZeroIterationForLoop)$"
)
"""One replacement per operator and direction instead of cosmic-ray's dozen: a test that does not
see a product turned into a quotient sees no other change of it."""

SESSIONS = scratch.ROOT / "runs" / "mutants"
REPORT = scratch.ROOT / "results" / "mutants.json"
EQUIVALENT = Path(__file__).parent / "equivalent.txt"


def digest(*files: str) -> str:
    """Hash of the files' texts."""
    made = hashlib.sha256()
    for file in files:
        made.update((scratch.ROOT / file).read_bytes())
    return made.hexdigest()[:12]


def session_of(file: str) -> Path:
    """Data base of a module's present text."""
    return SESSIONS / f"{file.replace('/', '.').removesuffix('.py')}-{digest(file)}.sqlite"


def opened(file: str) -> Path:
    """The session of a module, made where there is none: all mutants, those left out as skipped."""
    path = session_of(file)
    if path.exists():
        return path
    SESSIONS.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with use_db(draft) as db:
        init([scratch.ROOT / file], db, {})
        for item in db.pending_work_items:
            if not OPERATORS.match(item.mutations[0].operator_name):
                db.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    draft.rename(path)
    return path


def mutated(file: str, item: WorkItem) -> str | None:
    """Text of the module with the mutation in it; None where nothing changes."""
    (spec,) = item.mutations
    operator = cosmic_ray.plugins.get_operator(spec.operator_name)(**spec.operator_args)
    text = (scratch.ROOT / file).read_text("utf-8")
    return cosmic_ray.mutating.mutate_code(text, operator, spec.occurrence)


def lines_of(file: str, item: WorkItem) -> tuple[str, str]:
    """The first line that a mutation changes, before and after, without surrounding blanks."""
    before = (scratch.ROOT / file).read_text("utf-8").splitlines()
    after = (mutated(file, item) or "").splitlines()
    for one, other in zip(before, after, strict=False):
        if one != other:
            return one.strip(), other.strip()
    return "", ""


def todo(file: str, db: WorkDB, fresh: bool) -> list[WorkItem]:
    """Mutants without an outcome; when the tests have changed also those that survived."""
    pending = list(db.pending_work_items)
    mark = session_of(file).with_suffix(".tests")
    tests = digest(scratch.mirrored(file))
    changed = not mark.exists() or mark.read_text() != tests
    mark.write_text(tests)
    if not changed and not fresh:
        return pending
    for item, result in db.completed_work_items:
        tried = result.worker_outcome == WorkerOutcome.NORMAL
        if tried and (fresh or result.test_outcome == TestOutcome.SURVIVED):
            pending.append(item)
    return pending


class Worker(threading.Thread):
    """Tries mutants of one module in a scratch copy of its own until none is left."""

    def __init__(self, file: str, work: queue.SimpleQueue[WorkItem], done: Any) -> None:
        super().__init__(daemon=True)
        self.file, self.work, self.done = file, work, done
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work; an error is kept for the main thread."""
        try:
            with tempfile.TemporaryDirectory(prefix="mutants-") as name:
                self._try_all(scratch.make(Path(name)))
        except BaseException as error:
            self.error = error

    def _try_all(self, folder: Path) -> None:
        file, tests = self.file, [scratch.mirrored(self.file)]
        with Warm(folder, file, scratch.environment(folder, file)) as warm:
            code, tail = warm.run(tests, 600.0)
            if code != 0:
                raise RuntimeError(f"{tests[0]} fails without a mutation:\n{tail}")
            began = time.process_time(), time.monotonic()
            warm.run(tests, 600.0)
            allowed = 10.0 + 5.0 * (time.monotonic() - began[1])
            while True:
                try:
                    item = self.work.get_nowait()
                except queue.Empty:
                    return
                self.done(item, self._outcome(warm, folder / file, tests, item, allowed))

    def _outcome(
        self, warm: Warm, path: Path, tests: list[str], item: WorkItem, seconds: float
    ) -> WorkResult:
        text = mutated(self.file, item)
        if text is None:
            return WorkResult(worker_outcome=WorkerOutcome.NO_TEST)
        with scratch.planted(path, text):
            code, tail = warm.run(tests, seconds)
        outcome = TestOutcome.SURVIVED if code == 0 else TestOutcome.KILLED
        tail = "timeout" if code is None else tail[-300:]
        return WorkResult(WorkerOutcome.NORMAL, output=tail, test_outcome=outcome)


def run(file: str, jobs: int, fresh: bool) -> None:
    """Try the mutants of one module that are still to be tried.

    Raises:
        RuntimeError: The tests fail without a mutation.
    """
    with use_db(opened(file)) as db:
        items = todo(file, db, fresh)
        work: queue.SimpleQueue[WorkItem] = queue.SimpleQueue()
        for item in items:
            work.put(item)
        lock = threading.Lock()
        with tqdm(total=len(items), desc=file, disable=None) as bar:

            def done(item: WorkItem, result: WorkResult) -> None:
                with lock:
                    db.set_result(item.job_id, result)
                    bar.update()

            workers = [Worker(file, work, done) for _ in range(min(jobs, len(items)))]
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
                if worker.error is not None:
                    raise RuntimeError(f"{file}: {worker.error}") from worker.error


def argued() -> dict[tuple[str, str, str], str]:
    """(file, line before, line after) -> why the mutant changes nothing that a caller can see.

    A paragraph per argument: the argument, then one mutant a line as `file | before | after`.
    """
    found = {}
    text = EQUIVALENT.read_text("utf-8") if EQUIVALENT.exists() else ""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        why = " ".join(line for line in lines if " ==> " not in line)
        for line in lines:
            if " ==> " in line:
                file, rest = line.split(": ", 1)
                before, after = rest.split(" ==> ")
                found[file.strip(), before.strip(), after.strip()] = why
    return found


def summary(file: str, reasons: dict[tuple[str, str, str], str]) -> dict[str, Any] | None:
    """Counts and survivors of one module, None when its present text was never tried."""
    path = session_of(file)
    if not path.exists():
        return None
    counts = {"mutants": 0, "killed": 0, "timeout": 0, "equivalent": 0, "survived": 0, "untried": 0}
    survivors, equivalent = [], []
    with use_db(path) as db:
        counts["untried"] = len(db.pending_work_items)
        counts["mutants"] = counts["untried"]
        for item, result in db.completed_work_items:
            if result.worker_outcome != WorkerOutcome.NORMAL:
                continue
            counts["mutants"] += 1
            if result.test_outcome == TestOutcome.KILLED:
                counts["killed"] += 1
                counts["timeout"] += result.output == "timeout"
                continue
            before, after = lines_of(file, item)
            row = {"line": item.mutations[0].start_pos[0], "before": before, "after": after}
            why = reasons.get((file, before, after))
            counts["equivalent" if why else "survived"] += 1
            (equivalent if why else survivors).append(row | ({"why": why} if why else {}))
    tried = counts["mutants"] - counts["equivalent"] - counts["untried"]
    by_line = lambda row: (row["line"], row["after"])  # noqa: E731
    return {
        **counts,
        "score": round(counts["killed"] / tried, 4) if tried else None,
        "survivors": sorted(survivors, key=by_line),
        "argued_equivalent": sorted(equivalent, key=by_line),
    }


def report() -> dict[str, Any]:
    """Write results/mutants.json from the sessions of the present texts."""
    reasons = argued()
    made = {file: found for file in (*STRICT, *REST) if (found := summary(file, reasons))}
    goals = {file: 1.0 if file in STRICT else 0.9 for file in made}
    text = {
        "tool": "cosmic-ray",
        "tests": "the test file that mirrors the module, alone",
        "modules": {file: {"goal": goals[file], **found} for file, found in made.items()},
    }
    REPORT.write_text(json.dumps(text, indent=1) + os.linesep, "utf-8")
    return text


def main(argv: list[str] | None = None) -> int:
    """Run and report; exit code 1 while a module misses its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="modules; all when left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--fresh", action="store_true", help="try every mutant again")
    parser.add_argument("--report", action="store_true", help="try nothing")
    asked = parser.parse_args(argv)
    for file in () if asked.report else asked.files or (*STRICT, *REST):
        run(file, asked.jobs, asked.fresh)
    missed = 0
    for file, found in report()["modules"].items():
        short = found["score"] is None or found["score"] < found["goal"] or found["untried"]
        missed += bool(short)
        counts = ", ".join(
            f"{found[k]} {k}" for k in ("killed", "equivalent", "survived", "untried")
        )
        print(f"{'MISSED' if short else 'ok':7} {file:32} {found['mutants']} mutants: {counts}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
