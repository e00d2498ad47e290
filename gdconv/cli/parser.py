"""The command line's parser, made from the fields of `Config`: one list of options.

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

from gdconv.support.config import Config
from gdconv.support.errors import GdconvError, InputError, quoted

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
        name = message.split(":")[0].removeprefix("argument ").split("/")[-1].strip("-")
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
        known = [s for action in self._actions for s in action.option_strings]
        near = difflib.get_close_matches(option.split("=")[0], known, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}; " if near else ""
        raise InputError("option", option, f"{hint}see {self.prog} --help for the options")

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


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of `Config`; the theorem is positional.

    Args:
        parser: The parser to extend.

    Example:
        >>> parser = Parser()
        >>> add_config_options(parser)
        >>> vars(parser.parse_args(["full-gd", "--head-dim", "8"]))
        {'theorem': 'full-gd', 'head_dim': '8'}
    """
    texts = field_texts()
    for field in dataclasses.fields(Config):
        # % is argparse's own; an option that is not given leaves no trace: defaults are Config's
        text = texts.get(field.name, "").replace("%", "%%")
        if field.name == "theorem":
            parser.add_argument("theorem", metavar="ID", help=text)
            continue
        flag = f"--{field.name.replace('_', '-')}"
        kind = str(field.type).split("|")[0].strip()
        if kind == "bool":
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        if field.default is not None and field.default is not dataclasses.MISSING:
            text += f" (default: {field.default})"
        metavar = {"int": "INT", "float": "NUMBER"}.get(kind, field.name.upper())
        options: dict[str, Any] = {"metavar": metavar, "help": text, "default": argparse.SUPPRESS}
        parser.add_argument(flag, action=_Once, **options)


class _Once(argparse.Action):
    """Keep a value; another one for the same option would be one that nothing reads."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        before = getattr(namespace, self.dest, values)
        if before != values:
            raise InputError(self.dest, values, f"give it once: {quoted(before)} stands before it")
        setattr(namespace, self.dest, values)


def config_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parsed words as values of `Config`; only what was given.

    Args:
        given: Namespace of the parser as a dictionary; names that are no field are left out.

    Returns:
        Values by field name, without the theorem.

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
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if field.name == "theorem" or field.name not in given:
            continue
        word, kind = given[field.name], str(field.type).split("|")[0].strip()
        try:
            values[field.name] = {"int": int, "float": float}.get(kind, lambda w: w)(word)
        except ValueError:
            raise InputError(field.name, word, WORDS[kind]) from None
    return values


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
