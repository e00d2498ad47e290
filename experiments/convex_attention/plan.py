"""Sizes, units of work and their checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.convex_attention.curves import (
    FAST,
    FREE,
    METHODS,
    MODELS,
    attention,
    certified,
    descend,
    fitted,
    objective_of,
    program_of,
    proximal,
    r_squared,
    start,
)
from experiments.convex_attention.data import TASKS, TokenTask, encoder, load
from experiments.convex_attention.modular import KINDS, fixed, train
from experiments.convex_attention.path import along_path
from experiments.harness.units import Lines, Results

Done = dict[str, dict[str, Any]]
"""Results by key."""
SEARCH_SEED = 1000
"""Seed on which the step sizes are chosen; those of the comparison are 0, 1, ..."""
OTHER_DECAY = 1.5
"""AdamW's decay of a second round with one layer: does the order of the kinds hang on it?"""
CONTROL = "convex, decay on Z"
"""A control: the convex layer with AdamW's decay on Z, as on the rest, and no group penalty."""
VERSION = 1
"""Of what a unit computes."""


@dataclass(frozen=True)
class Preset:
    """Sizes of the whole experiment.

    Attributes:
        name: Its name.
        samples: Training samples N and held-out samples.
        seeds: Seeds of curves, maps and path.
        steps: Steps of a curve.
        search_steps: Steps of a run that tries a step size.
        rates: Step sizes tried, by method.
        heads: Heads of (3).
        decay: beta / beta_max of the curves.
        path_count: Weight decays of the path.
        pretraining: Steps of the frozen encoder.
        p: Prime of the division.
        sizes: Width, heads and hidden width of its networks.
        modular_seeds: Their seeds.
        modular_steps: Their most steps, by layers.
        options: AdamW's rate and decay and the penalty of Z, by layers.
        fixed_p: Prime of the programs with fixed tokens.
        gates: Their gates.
    """

    name: str
    samples: tuple[int, int] = (96, 300)
    seeds: int = 5
    steps: int = 500
    search_steps: int = 500
    rates: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            METHODS[0]: (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            METHODS[1]: (0.01, 0.03, 0.1, 0.3, 1.0),
        }
    )
    heads: int = 4
    decay: float = 0.02
    path_count: int = 25
    pretraining: int = 300
    p: int = 43
    sizes: tuple[int, int, int] = (64, 4, 128)
    modular_seeds: int = 3
    modular_steps: tuple[int, int] = (2000, 2000)
    options: tuple[dict[str, float], dict[str, float]] = (
        {"rate": 3e-3, "decay": 3.0, "penalty": 0.3},
        {"rate": 3e-3, "decay": 2.5, "penalty": 0.3},
    )
    fixed_p: int = 23
    gates: tuple[int, ...] = (0, 8, 16)


PRESETS = {
    "tiny": Preset(
        "tiny", (12, 20), seeds=2, steps=6, search_steps=3,
        rates={METHODS[0]: (1e-4, 1e-3), METHODS[1]: (0.03, 0.1)}, heads=2, path_count=4,
        pretraining=4, p=5, sizes=(8, 2, 16), modular_seeds=2, modular_steps=(20, 20), fixed_p=5,
        gates=(0, 4),
    ),
    "small": Preset("small"),
    "paper": Preset(
        "paper", (200, 390), seeds=10, steps=3000, search_steps=3000, heads=16, path_count=60,
        pretraining=1500, p=97, sizes=(128, 4, 256), modular_seeds=5, modular_steps=(8000, 8000),
        fixed_p=31, gates=(0, 8, 16, 32),
    ),
}  # fmt: skip
"""tiny runs in seconds and shows nothing, small takes minutes on one core, paper hours."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done or not.

    Attributes:
        study: search, curve, optimum, path, modular, decay (modular with OTHER_DECAY) or fixed.
        task: Task, or the number of layers, or of gates.
        model: Model or kind of attention.
        method: Method of a curve.
        seed: Seed.
        cost: Rough seconds of one free core, for the bar.
    """

    study: str
    task: str
    model: str = ""
    method: str = ""
    seed: int = 0
    cost: float = 0.2

    @property
    def key(self) -> str:
        """Its name in the checkpoint."""
        return "|".join((self.study, self.task, self.model, self.method, str(self.seed)))


def _methods_of(model: str) -> tuple[str, ...]:
    """Methods a model is trained by; the control only by the faster one."""
    return (FAST,) if model == FREE else METHODS


def units(preset: Preset) -> list[Unit]:
    """All pieces, the searches before the runs that need them.

    Args:
        preset: Sizes.

    Returns:
        The units.

    Example:
        >>> len({unit.key for unit in units(PRESETS["tiny"])}) == len(units(PRESETS["tiny"]))
        True
    """
    pairs = [(task, model) for task in TASKS for model in MODELS]
    made = [
        Unit("search", task, model, method, SEARCH_SEED, 1.0)
        for task, model in pairs
        if model != "convex"
        for method in _methods_of(model)
    ]
    for seed in range(preset.seeds):
        made += [Unit("optimum", task, "convex", "", seed) for task in TASKS]
        made += [
            Unit("curve", task, model, method, seed, 2.5 if "(3)" in model else 0.8)
            for task, model in pairs
            for method in _methods_of(model)
        ]
        made += [Unit("path", task, "convex", "", seed) for task in ("digits", "pixels", TASKS[1])]
    for seed in range(preset.modular_seeds):
        made += [Unit("fixed", str(gates), "convex", "", seed, 1.5) for gates in preset.gates]
        made += [
            Unit("modular", str(layers), kind, "AdamW", seed, 8.0 * layers)
            for layers in (1, 2)
            for kind in KINDS
        ]
    made += [
        Unit("decay", "1", kind, f"decay {OTHER_DECAY:g}", seed, 10.0)
        for seed in range(preset.modular_seeds)
        for kind in KINDS
    ]
    made += [
        Unit(study, "1", CONTROL, f"control of {study}", seed, 4.0)
        for study in ("modular", "decay")
        for seed in range(preset.modular_seeds)
    ]
    return made


class Worker:
    """Computes units; the encoder is trained when the first one needs it.

    Args:
        preset: Sizes.
        folder: Folder of the checkpoints.
    """

    def __init__(self, preset: Preset, folder: Path) -> None:
        self.preset, self.folder = preset, folder
        self._encoder: tuple[Any, float] | None = None

    def task(self, name: str, seed: int) -> TokenTask:
        """Data of one seed."""
        net = None
        if name == "student-teacher":
            if self._encoder is None:
                self._encoder = encoder(self.folder, self.preset.pretraining)
            net = self._encoder[0]
        return load(name, seed, self.preset.samples, net)

    def measure(self, unit: Unit, done: Results) -> dict[str, Any]:
        """The numbers of a unit.

        Args:
            unit: What to do.
            done: Results so far, with the search this unit needs.

        Returns:
            Numbers that JSON can hold.
        """
        preset = self.preset
        if unit.study in {"modular", "decay"}:
            layers = int(unit.task)
            options, steps = preset.options[layers - 1], preset.modular_steps[layers - 1]
            if unit.study == "decay":
                options = options | {"decay": OTHER_DECAY}
            if unit.model == CONTROL:
                options = options | {"penalty": 0.0, "decay_of_Z": options["decay"]}
            kind = "convex" if unit.model == CONTROL else unit.model
            return train(kind, layers, preset.p, unit.seed, preset.sizes, options, steps)
        if unit.study == "fixed":
            decays = (0.5, 0.1, 0.02)
            return {"rows": fixed(preset.fixed_p, int(unit.task), unit.seed, decays)}
        task = self.task(unit.task, unit.seed)
        if unit.study == "path":
            return {"rows": along_path(task, preset.path_count, 0.005)}
        if unit.study == "optimum":
            accuracy = self._encoder[1] if self._encoder else None
            return {**certified(program_of(task, preset.decay)), "encoder": accuracy}
        return self._search(unit, task) if unit.study == "search" else self._curve(unit, task, done)

    def _search(self, unit: Unit, task: TokenTask) -> dict[str, Any]:
        """The step size with the least objective at the end of a short run."""
        preset, ends = self.preset, []
        program = program_of(task, preset.decay)
        for rate in preset.rates[unit.method]:
            weights = start(unit.model, task, preset.heads, unit.seed)
            goal = objective_of(unit.model, program)
            _, curve = descend(goal, weights, unit.method, rate, preset.search_steps)
            ends.append(float(np.nan_to_num(curve.values[-1], nan=np.inf)))
        best = preset.rates[unit.method][int(np.argmin(ends))]
        return {"rate": best, "rates": list(preset.rates[unit.method]), "ends": ends}

    def _curve(self, unit: Unit, task: TokenTask, done: Results) -> dict[str, Any]:
        preset = self.preset
        program = program_of(task, preset.decay)
        if unit.model == "convex":
            Z, curve = proximal(program, unit.method, preset.steps)
            predicted = task.X_test.reshape(len(task.X_test), -1) @ Z.ravel()
            score = r_squared(predicted, task.y_test)
            return {**asdict(curve), "r_squared": score, "rate": program.max_step().lo}
        search = Unit("search", unit.task, unit.model, unit.method, SEARCH_SEED)
        rate = float(done[search.key]["result"]["rate"])
        weights = start(unit.model, task, preset.heads, unit.seed)
        goal = objective_of(unit.model, program)
        end, curve = descend(goal, weights, unit.method, rate, preset.steps)
        found: dict[str, Any] = {**asdict(curve), "rate": rate}
        found["r_squared"] = fitted(unit.model, task, end)
        if unit.method == FAST:
            found["at_start"] = attention(unit.model, task, weights)["entropy"]
            found["attention"] = attention(unit.model, task, end)
            if unit.seed:  # maps are drawn for one seed
                found["attention"] = {"entropy": found["attention"]["entropy"]}
        return found


def run_units(preset: Preset, folder: Path) -> Done:
    """All units, going on from FOLDER/units.jsonl.

    Args:
        preset: Sizes.
        folder: Folder of the checkpoints.

    Returns:
        Results by key.

    Raises:
        InputError: The checkpoint was written with other sizes.
    """
    kept = Lines(folder / "units.jsonl", {"mark": [VERSION, asdict(preset)]})
    worker = Worker(preset, folder)
    found = kept.run(units(preset), lambda u, tell: {"result": worker.measure(u, kept.done)})
    return {key: line["result"] for key, line in found.items()}
