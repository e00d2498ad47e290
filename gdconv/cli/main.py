"""The command `gdconv`: list, check, table, replay.

Exit codes: 0 confirmed, 1 refuted, 2 bad input, 3 vacuous, outside or undecided, 130 interrupted.
Results go to standard output, everything else to standard error. torch, numpy and pandas are
imported when a check runs, not for lists, help and slips. GDCONV_DEBUG=1 shows the traceback of
what should not have happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

from gdconv.cli.output import progress_told, say, show
from gdconv.cli.parser import Parser, add_config_options, config_options, dashed
from gdconv.support.errors import (
    MOST_SAID,
    DivergenceError,
    GdconvError,
    InputError,
    cause,
    quoted,
)
from gdconv.support.files import require_working_directory
from gdconv.support.garbage import uncollected
from gdconv.support.interruption import deferred, forget
from gdconv.theory.verdict import EXIT_CODES

BAD_INPUT, INTERRUPTED = 2, 130
CHECK = "gdconv check"
FORMATS = ("text", "csv", "markdown", "latex")

_OWN: ContextVar[bool] = ContextVar("own", default=False)
"""Whether this process runs one command and no more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; None for the process's.

    Returns:
        The exit code.

    Example:
        >>> main(["check", "full-gd", "--steps", "none"])
        2
    """
    if sys.stderr is None:  # closed by the caller (2>&-); libraries write there too
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  open as long as the process
    _OWN.set(argv is None)
    code = _run_command(sys.argv[1:] if argv is None else argv)
    if argv is None:  # all is said and the process ends: control-C has nothing left to break off
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        forget()
    return code


def _run_command(argv: Sequence[str]) -> int:
    """One command, its errors as sentences and codes."""
    try:
        words = dashed(argv)
        if words[:1] == ["check"]:
            return _check(words[1:])
        options = _parser().parse_args(words)
        return int(options.command(options))
    except GdconvError as error:
        return say(str(error), BAD_INPUT)
    except KeyboardInterrupt as stop:
        return say(str(stop) or "interrupted; nothing was saved", INTERRUPTED)
    except SystemExit as stop:  # --help and --version
        with contextlib.suppress(GdconvError):
            show("")
            return int(stop.code or 0)
        return BAD_INPUT
    except Exception as error:  # never 1, which would say that a theorem is refuted
        if _interrupted(error):
            return say("interrupted; nothing was saved", INTERRUPTED)
        if os.environ.get("GDCONV_DEBUG"):
            import traceback

            traceback.print_exc()
        return say(_unexpected(error), BAD_INPUT)


def _interrupted(error: BaseException) -> bool:
    """Whether control-C is behind an error: a library may make another one of it."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if isinstance(at, KeyboardInterrupt):
            return True
        seen.add(id(at))
        at = at.__cause__ or at.__context__
    return False


def _unexpected(error: Exception) -> str:
    """One sentence on an error that nobody foresaw."""
    if isinstance(error, MemoryError):
        return "out of memory: make the problem smaller."
    return f"unexpected {cause(error)} (please report it; GDCONV_DEBUG=1 shows where it came from)."


def run_theorem(theorem: str, argv: Sequence[str] | None = None) -> int:
    """`gdconv check THEOREM`, for `python -m theorems.<file>`.

    Args:
        theorem: Theorem id.
        argv: Options; None for the process's.

    Returns:
        The exit code.

    Example:
        >>> run_theorem("full-gd", ["--seeds", "x"])
        2
    """
    return main(["check", theorem, *(sys.argv[1:] if argv is None else argv)])


def _parser() -> Parser:
    parser = Parser(
        prog="gdconv", description="Check convergence theorems of gradient descent on attention."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(command=run, parser=sub)
        return sub

    sub = command("list", _list, "list the theorems and their statements")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    command("check", lambda _: _check([]), "run gradient descent and judge a theorem on it")
    sub = command("table", _table, "print the tables of saved runs")
    sub.add_argument(
        "folders", nargs="+", metavar="DIR", help="a saved run, or a folder of saved runs"
    )
    sub.add_argument(
        "--format", choices=FORMATS, default="text", help="text, csv, markdown or latex"
    )
    sub.add_argument("--statement", help="statement whose hypotheses are shown, or all")
    sub = command("replay", _replay, "run a saved run again from its stored start and compare")
    sub.add_argument("folder", metavar="DIR", help="a saved run")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.add_argument("--quiet", action="store_true", help="no progress and no notes")
    return parser


class _Version(argparse.Action):
    """Print the version; it is looked up only when asked for."""

    def __call__(self, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        with contextlib.suppress(PackageNotFoundError):
            print(f"gdconv {version('gdconv')}")
            raise SystemExit(0)
        print("gdconv, not installed")
        raise SystemExit(0)


def _list(options: Any) -> int:
    from gdconv.theory.registry import listed

    with _waiting():  # a theorem whose file does not tell all is imported
        found, broken = listed()
    for module, reason in broken.items():
        say(f"{module} is left out, it cannot be imported: {reason}")
    rows: list[dict[str, Any]] = [
        {
            "id": theorem.id,
            "title": theorem.title,
            "source": theorem.source,
            "statements": [
                {"name": s.name, "default": s.default, "summary": s.summary}
                for s in theorem.statements()
            ],
        }
        for theorem in found.values()
    ]
    if options.json:
        show(json.dumps({"theorems": rows}, indent=1, default=str))
        return 0
    lines = []
    for row in rows:
        lines += [f"{row['id']}: {row['title']}", f"  source: {row['source']}"]
        for s in row["statements"]:
            lines.append(f"  {s['name']:<12} {s['summary']}{' (default)' if s['default'] else ''}")
    show("\n".join(lines))
    return 0


def _check(words: Sequence[str]) -> int:
    """Twice over the words: which theorem, model and algorithm, then all by what those read."""
    from gdconv.cli.help import check_parser, general_help, glance

    asked = bool({"-h", "--help"} & set(words))
    words = [word for word in words if word not in ("-h", "--help")]
    first = Parser(prog=CHECK, add_help=False)
    add_config_options(first, lenient=True)
    try:
        found, _ = first.parse_known_args(words)
    except InputError:
        if not asked:
            raise
        show(general_help(CHECK))
        return 0
    at = glance(vars(found))
    readers = _readers(at)
    parser = check_parser(readers, at, CHECK, asked)
    if asked:
        show(parser.format_help())
        return 0
    options = parser.parse_args(words)
    given = config_options(vars(options), readers.own)
    quiet, out = bool(given.get("quiet")), given.get("out")
    _import("gdconv.checks.run", "gdconv.checks.store")
    if out is not None:
        from gdconv.checks.store import require_writable

        require_writable(out)
    places: list[Path] = []
    try:
        with contextlib.redirect_stdout(sys.stderr), progress_told(quiet) as progress:
            check, folder = _run(options.theorem, given, out, progress, places)
        return _report(check, folder, bool(given.get("json")), not quiet)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or _last(places)) from None


def _readers(given: Any) -> Any:
    """The parties of a check; the theorem is imported where its file does not tell all of it."""
    from gdconv.checks.readers import Readers
    from gdconv.theory.registry import outline, theorem_named

    told = outline(given.theorem)
    with _waiting():
        theorem: Any = told or theorem_named(given.theorem)
    models = [given.model] if given.model else list(theorem.models)
    if told is None or given.algorithm or any(":" in m or m == "module" for m in models):
        _import("gdconv.checks.run", "gdconv.checks.store")
    return Readers.of(theorem, given)


def _last(places: list[Path]) -> str:
    """What an interrupt that nobody expected finds: it may come after the run was saved."""
    from gdconv.checks.store import is_run

    saved = [place for place in places if is_run(place)]
    return f"interrupted; the run is saved in {saved[-1]}" if saved else ""


def _import(*modules: str) -> None:
    """Import what a command needs."""
    with _waiting():
        for module in modules:
            import_module(module)


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """While modules are imported, control-C waits, or it could abort the process."""
    require_working_directory()
    with deferred() as pressed, uncollected(for_good=_OWN.get()):
        yield
    if pressed:
        raise KeyboardInterrupt


def _run(
    theorem: str, given: dict[str, Any], out: str | None, progress: Any, places: list[Path]
) -> tuple[Any, Any]:
    """The check and its folder; one that is saved complete is read; `places` is told of folders."""
    from gdconv.checks.prepare import prepare
    from gdconv.checks.result import Interrupted, load
    from gdconv.checks.run import run
    from gdconv.checks.store import is_run, place_of
    from gdconv.support.config import Config

    setting = prepare(Config.open(theorem, given))
    if out is not None:
        place = place_of(out, setting.config.canonical(), setting.arrays)
        places.append(place)
        if is_run(place):
            say(f"{place} is complete already; read, not run again")
            return load(place), place
    try:
        made = run(setting, progress)
    except Interrupted as stop:
        raise KeyboardInterrupt(f"{stop}; {_kept(stop.check, out, places)}") from None
    except DivergenceError as stop:
        done = 0 if stop.check is None else len(stop.check.runs)
        finished = f"{done} of {stop.total} runs were finished; {_kept(stop.check, out, places)}"
        raise GdconvError(f"{str(stop).removesuffix('.')}; {finished}.") from None
    return made, None if out is None else made.save(out)


def _kept(check: Any, out: str | None, places: list[Path]) -> str:
    """Where the finished runs of a check that ended early are."""
    if check is None or out is None:
        return "nothing was saved"
    from gdconv.checks.store import place_of

    places.append(place_of(out, check.config, check.starts))
    return f"they are saved in {check.save(out)}"


def _report(check: Any, folder: Path | None, as_json: bool, notes: bool) -> int:
    from gdconv.report.summary import summary

    if as_json:
        show(json.dumps(check.to_json(), indent=1, allow_nan=False))
    else:
        show(summary(check, folder, notes))
    return EXIT_CODES[check.verdict]


def _table(options: Any) -> int:
    _import("gdconv.checks.run", "gdconv.checks.store")
    from gdconv.checks.result import load
    from gdconv.checks.store import find_runs
    from gdconv.report.tables import hypotheses_table, render, verdict_table

    folders = [run for folder in options.folders for run in find_runs(folder)]
    checks = {folder: load(folder) for folder in folders}
    if options.statement not in (None, "all"):
        for check in checks.values():
            hypotheses_table(
                check, options.statement
            )  # an unknown name is refused before any output
    if options.format == "csv":
        import pandas as pd

        tables = []
        for folder, check in checks.items():
            table = verdict_table(check)
            if options.statement not in (None, "all"):
                table = table[table["statement"] == options.statement]
            table.insert(0, "theorem", check.theorem)
            table.insert(0, "folder", folder.name)
            tables.append(table)
        show(pd.concat(tables).to_csv(index=False, lineterminator="\n"))
        return 0
    mark = {"text": "", "markdown": "### ", "latex": "% "}[options.format]
    parts = []
    for folder, check in checks.items():
        line = f"{folder.name}: {check.theorem}, {check.statement}: {check.verdict}"
        line = f"{mark}{quoted(line, MOST_SAID)}\n\n"
        parts.append(line + render(check, options.format, options.statement))
    show("\n".join(parts))
    return 0


def _replay(options: Any) -> int:
    _import("gdconv.checks.run", "gdconv.checks.store")
    from gdconv.checks.replay import differences, replay
    from gdconv.checks.result import load

    saved = load(options.folder)
    with contextlib.redirect_stdout(sys.stderr), progress_told(options.quiet) as progress:
        again = replay(saved, progress)
    lines = differences(saved, again)
    code = _report(again, None, options.json, not options.quiet)
    text = "; ".join(lines) or "same verdicts and first violations as saved"
    return say(f"replay of {quoted(options.folder)}: {text}.", 3 if lines else code)
