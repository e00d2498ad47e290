"""The command line's parser: words become values, or one sentence.

argparse and not tyro: tyro takes 0.15 s of the 0.3 s that `gdconv --help` may take, and prints
errors as boxes of several lines where users should get one sentence.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gdconv.support.config import GLOBAL, Config
from gdconv.support.errors import GdconvError, InputError, quoted
from gdconv.support.options import Option

WORDS = {"int": "give a whole number", "float": "give a number"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `InputError`s: one sentence, no usage block.

    Example:
        >>> Parser(prog="p").parse_args(["--colour"])
        Traceback (most recent call last):
            ...
        gdconv.support.errors.InputError: option = --colour: see p --help for the options.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into one sentence.

        Args:
            message: argparse's text.

        Raises:
            InputError: Nearly always.
            GdconvError: A complaint of argparse that is not known here.
        """
        if message.startswith("argument ") and ": expected" in message:
            name = message.split(":")[0].removeprefix("argument ").split("/")[-1]
            raise InputError(name.strip("-").replace("-", "_"), "nothing", "give a value after it")
        if message.startswith("the following arguments are required: "):
            raise InputError(message.split(": ")[1], "nothing", f"see {self.prog} --help")
        names = message.split(":")[0].removeprefix("argument ").split("/")
        name = next((n for n in names if n.startswith("--")), names[-1]).strip("-")
        if "invalid choice: " in message:
            value, choices = message.split("invalid choice: ")[1].split(" (choose from ", 1)
            remedy = f"choose one of {choices.rstrip(')')}".replace("'", "")
            raise InputError(name, value.strip("'"), remedy)
        if "ignored explicit argument " in message:
            value = message.split("ignored explicit argument ", 1)[1].strip("'")
            raise InputError(name, value, f"give --{name} without a value")
        raise GdconvError(f"{message}; see {self.prog} --help.")

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that mean nothing.

        Args:
            words: At least one word.

        Raises:
            InputError: Always; it names the first option among them, and a known one like it.
        """
        option = next((word for word in words if word.startswith("-")), words[0])
        shown = [a for a in self._actions if a.help != argparse.SUPPRESS]
        known = [s for action in shown for s in action.option_strings]
        near = difflib.get_close_matches(option.split("=")[0], known, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}; " if near else ""
        # a word that is no option belongs to the command, not to its theorem
        place = self.prog if option.startswith("-") else " ".join(self.prog.split()[:2])
        raise InputError("option", option, f"{hint}see {place} --help for the options")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but unknown options are reported by the subcommand they stand in.

        Args:
            args: Words; None for the process's.
            namespace: As argparse.

        Returns:
            The namespace.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(found, "parser", self).unknown(unknown)
        return found


def add_config_options(parser: argparse.ArgumentParser, lenient: bool = False) -> None:
    """Add one option per field of `Config`; the theorem is positional.

    Args:
        parser: The parser to extend.
        lenient: What only some models read may stand without a value, as another's option may.

    Example:
        >>> parser = Parser()
        >>> add_config_options(parser)
        >>> vars(parser.parse_args(["full-gd", "--head-dim", "8"]))
        {'theorem': 'full-gd', 'head_dim': '8'}
    """
    texts = {} if lenient else field_texts()  # a first look shows no help
    for name, kind in field_kinds().items():
        text = texts.get(name, "")
        if name == "theorem":
            parser.add_argument("theorem", metavar="ID", help=text.replace("%", "%%"))
            continue
        default = getattr(Config(""), name)
        if default not in (None, False):
            text += f" (default: {default})"
        maybe = "?" if lenient and name not in GLOBAL else None
        add_option(parser, name, kind, text, nargs=maybe)


def add_option(
    parser: Any, name: str, kind: str, text: str, both: bool = False, nargs: str | None = None
) -> None:
    """Add one option; one that is not given leaves no trace.

    Args:
        parser: A parser or a group of one.
        name: Its name in Python.
        kind: int, float, str or bool.
        text: Its help, or argparse.SUPPRESS.
        both: For a bool, whether it can be denied too.
        nargs: As argparse.
    """
    flag = f"--{name.replace('_', '-')}"
    said = text if text == argparse.SUPPRESS else text.replace("%", "%%")  # % is argparse's own
    more: dict[str, Any] = {"dest": name, "help": said, "default": argparse.SUPPRESS}
    if kind == "bool":
        action: Any = argparse.BooleanOptionalAction if both else "store_true"
        parser.add_argument(flag, action=action, **more)
        return
    metavar = {"int": "INT", "float": "NUMBER"}.get(kind, name.upper())
    parser.add_argument(flag, action=_Once, metavar=metavar, nargs=nargs, **more)


class _Once(argparse.Action):
    """Keep a value; another one for the same option would be one that nothing reads."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        before = getattr(namespace, self.dest, values)
        if before != values:
            raise InputError(self.dest, values, f"give it once: {quoted(before)} stands before it")
        setattr(namespace, self.dest, values)


def config_options(
    given: Mapping[str, Any], own: Mapping[str, Option] | None = None
) -> dict[str, Any]:
    """The parsed words as values; only what was given.

    Args:
        given: Namespace of the parser as a dictionary; names that are no option are left out.
        own: Options that the parties of this check declare themselves.

    Returns:
        Values by name, without the theorem.

    Raises:
        InputError: A word is not a number where one is needed.

    Example:
        >>> config_options({"steps": "20", "theorem": "full-gd"})
        {'steps': 20}
        >>> config_options({"steps": "many"})
        Traceback (most recent call last):
            ...
        gdconv.support.errors.InputError: steps = many: give a whole number.
    """
    own = own or {}
    kinds = field_kinds() | {name: option.kind for name, option in own.items()}
    values: dict[str, Any] = {}
    for name in kinds.keys() & given.keys() - {"theorem"}:
        word, kind = given[name], kinds[name]
        absent = name in own and own[name].optional and str(word).lower() == "none"
        try:
            convert = {"int": int, "float": float}.get(kind, lambda w: w)
            values[name] = None if absent else convert(word)
        except ValueError:
            raise InputError(name, word, WORDS[kind]) from None
    return {name: values[name] for name in kinds if name in values}


def field_kinds() -> dict[str, str]:
    """The simple type of each field of `Config`.

    Returns:
        int, float, str or bool by field name.

    Example:
        >>> field_kinds()["samples"]
        'int'
    """
    known = {f.name: str(f.type).split("|")[0].strip() for f in dataclasses.fields(Config)}
    return {name: kind for name, kind in known.items() if name != "own"}


def field_texts() -> dict[str, str]:
    """The docstring under each field of `Config`.

    Returns:
        Text by field name.

    Example:
        >>> field_texts()["samples"]
        'N, number of samples'
    """
    made = ast.parse(inspect.getsource(Config)).body[0]
    body = made.body if isinstance(made, ast.ClassDef) else []
    texts = {}
    for before, after in zip(body, body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[before.target.id] = " ".join(str(after.value.value).split())
    return texts


def dashed(argv: Sequence[str]) -> list[str]:
    """Accept --head_dim for --head-dim.

    Args:
        argv: Words of the command line.

    Returns:
        The words with dashes in option names.

    Raises:
        InputError: The value of an option is --, which ends the options.

    Example:
        >>> dashed(["--head_dim=8", "--data", "my_data.npz"])
        ['--head-dim=8', '--data', 'my_data.npz']
    """
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        if name.startswith("--") and value == "--":  # argparse would drop it and pass on nothing
            field = name.strip("-").replace("-", "_")
            raise InputError(field, value, "give another value, or leave the option out")
        words.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    return words
