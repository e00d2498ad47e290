"""Command lines: from nearly right to absurd, each from its number alone."""

from __future__ import annotations

import random

COMMANDS = ("check", "list", "table", "replay", "chek", "", "--version", "--help", "explain")

THEOREMS = ("full-gd", "query-gd", "ntk-regime", "attention-hessian", "convex-attention")

STATEMENTS = (
    "stacked", "per-head", "block-free", "kernel", "run", "gaussian-rate", "softmax-rate",
    "stationarity", "paper", "relu-sharp", "smooth", "linearised", "ladder", "identities", "growth",
    "equivalence", "duality", "beta-max", "recovery", "no-such", "per_head", "PER-HEAD", "",
)  # fmt: skip

WORDS = {
    "kernel": ("softmax", "gaussian", "linear", "Softmax"),
    "model": ("multihead", "encoder", "mlp"),
    "data": ("gaussian", "orthonormal", "digits", "mnist", "/", "/dev/null", "."),
    "problem": ("stacked-witness", "stacked-aligned", "stacked-stationary", "softmax-trap",
                "gaussian-trap", "kink", "printed-stationarity", "none", "/dev/zero"),
    "init": ("theorem", "normal", "lecun", "he", "ntk", "paired", "zero"),
    "scaling": ("linear", "sqrt", "cubic"),
    "loss": ("sum", "mean", "max"),
    "activation": ("relu", "gelu", "silu", "tanh"),
    "target": ("digit", "ink", "colour"),
    "step": ("theory", "local", "0.01", "1e-3", "0", "-1", "big"),
    "scales": ("1,1,1,1", "1,1,1", "1,1,1,1,1", "a,b,c,d", "1e308,1,1,1", "0,0,0,0", "1,,1,1"),
    "device": ("cpu", "cuda", "cuda:99", "mps", "meta", "tpu", "cpu:0"),
    "dtype": ("float64", "float32", "float16", "int"),
    "engine": ("auto", "fused", "torch", "jax"),
    "statement": STATEMENTS,
}  # fmt: skip

WHOLE = ("samples", "tokens", "embedding", "outputs", "head-dim", "heads", "width", "seeds", "seed")
NUMBERS = ("tau-1", "label-norm", "margin", "until-bound", "until-loss")
FLAGS = ("json", "quiet", "sharpness")

QUICK = {
    "attention-hessian": ("indefinite", "outer-psd", "saturation", "temperature", "layer-norm"),
    "convex-attention": ("duality", "recovery", "sparsity", "beta-max", "proximal-rate",
                         "accelerated-rate", "doubled-step", "printed-half", "sequence"),
}  # fmt: skip
"""Statements that take a tenth of a second, of the theorems without descent."""

DESCENT = (
    *("data", "problem", "init", "scales", "step", "statement", "engine", "dtype", "kernel"),
    *("samples", "tokens", "heads", "seeds", *NUMBERS, "json", "out"),
)
READ = {
    "full-gd": (*DESCENT, "embedding", "outputs", "head-dim", "sharpness"),
    "query-gd": (*DESCENT, "embedding", "outputs", "head-dim"),
    "ntk-regime": (*DESCENT, "model", "width", "scaling", "loss", "activation", "target"),
    "attention-hessian": ("samples", "tokens", "embedding", "head-dim", "heads", "seeds", "json"),
    "convex-attention": ("data", "samples", "tokens", "embedding", "outputs", "heads", "steps"),
}  # fmt: skip
"""Options that a theorem reads; most of the others are refused at once."""

ODD = (
    "", " ", "-", "--", "---", "=", "nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "0x10",
    "1_0",
    "٣", "½", "1.5.2", "1e", "+", "10**9", "99999999999999999999999999", "-0", "0", "-1", "1e309",
    "\x1b[31mred", "a\nb", "a\tb", "\u202eabc", "\udcff", "x" * 5_000, "é", "null", "None", "True",
    "$(id)", "../../..", "~", "/dev/full", "/dev/null/x", "a/" * 200, "%s%n", "{}", "[]", "'", '"',
)  # fmt: skip


def value(rng: random.Random, name: str) -> str:
    """A value for an option: mostly one that it could have."""
    if rng.random() < 0.15:
        return rng.choice(ODD)
    if name in WORDS:
        return rng.choice(WORDS[name])
    if name == "steps":
        return rng.choice(("0", "1", "3", "20"))
    if name in WHOLE:
        return str(
            rng.choice((1, 2, 3) if rng.random() < 0.8 else (0, -1, 5, 10**9, 2**63, 10**30))
        )
    return repr(rng.choice((0.5, 1.0, 1e-3, 0.0, -1.0, 1e-300, 1e300, rng.random())))


def option(rng: random.Random, theorem: str) -> list[str]:
    """One option with its value, in one word or two, now and then misspelt or cut."""
    every = (*WORDS, *WHOLE, *NUMBERS, *FLAGS, "steps", "out")
    name = rng.choice(READ[theorem] if theorem in READ and rng.random() < 0.6 else every)
    if name in FLAGS:
        return [f"--{name}"] if rng.random() < 0.9 else [f"--{name}={rng.choice(ODD)}"]
    given = value(rng, name)
    if name == "out":
        given = rng.choice((*ODD, "OUT", "OUT", "OUT"))
    if rng.random() < 0.05:
        name = rng.choice((name[:-1], name + "s", name.replace("-", "_"), name.upper(), name[:2]))
    draw = rng.random()
    if draw < 0.5:
        return [f"--{name}", given]
    return [f"--{name}={given}"] if draw < 0.97 else [f"--{name}"]


def short(rng: random.Random, theorem: str) -> list[str]:
    """Options that come first and make a check take a fraction of a second."""
    if theorem in QUICK:
        return [f"--statement={rng.choice(QUICK[theorem])}"]
    if theorem == "ntk-regime":
        return [f"--width={rng.choice((1, 4, 16))}"]
    sizes = (f"--{name}={rng.choice((1, 2, 3))}" for name in ("samples", "head-dim", "heads"))
    return [*sizes] if rng.random() < 0.8 else []


def command_line(number: int) -> list[str]:
    """The words of case `number`; the word OUT stands for a scratch folder.

    Runs are short, so that what takes long is a fault: sizes and steps are small, and the theorems
    without descent, whose statements together take a minute, are asked for one statement.
    """
    rng = random.Random(f"line {number}")
    if rng.random() < 0.04:
        return [rng.choice((*COMMANDS, *ODD, *THEOREMS)) for _ in range(rng.randrange(5))]
    if rng.random() < 0.12:
        command = rng.choice(("table", "replay", "list"))
        words = [rng.choice(("OUT", ".", *ODD, *THEOREMS))] if rng.random() < 0.8 else []
        extra = rng.choice(([], ["--format", rng.choice(("csv", "latex", "html", ""))], ["--json"]))
        return [command, *words, *extra]
    theorem = rng.choice(THEOREMS)
    words = ["check", theorem if rng.random() < 0.95 else rng.choice((*ODD, "full-gb", "FULL-GD"))]
    words += short(rng, theorem)
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5))):
        words += option(rng, theorem)
    if rng.random() < 0.05:
        rng.shuffle(words)
    if theorem not in QUICK or rng.random() < 0.2:
        words += [f"--steps={rng.choice((1, 2, 5))}"]
    return words
