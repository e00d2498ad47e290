"""Setting: data, weights and predictions of every run, everything that is made before a step."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from gdconv.checks.claims import Cases
from gdconv.checks.given import Given
from gdconv.checks.named import named_problem
from gdconv.checks.requirements import device_named, require_descent, require_sizes
from gdconv.checks.resolve import FALLBACK, Resolved, resolve
from gdconv.data.padding import blanked
from gdconv.data.problem import Problem
from gdconv.descent.engines import runs_in_torch
from gdconv.descent.plan import in_python
from gdconv.models.base import Model
from gdconv.models.weights import Weights
from gdconv.support.arrays import real_array
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.files import require_working_directory
from gdconv.support.threads import one_thread
from gdconv.theory.prediction import Prediction


@dataclass(frozen=True)
class Setting:
    """Everything decided before the first step: R runs of one model.

    Attributes:
        resolved: Theorem, statements and options, the sizes among them those of the arrays.
        model: The model.
        problem: Data, R replicas.
        params: Start weights, R replicas.
        starts: What the theorem reads of each run at step 0.
        predictions: A-priori predictions by statement, one dictionary per run.
        notes: Sentences that a reader of the result should know.
    """

    resolved: Resolved
    model: Model
    problem: Problem
    params: Weights
    starts: list[Any]
    predictions: list[dict[str, Prediction]]
    notes: tuple[str, ...]

    @property
    def config(self) -> Config:
        """The options."""
        return self.resolved.config

    @property
    def seeds(self) -> list[int]:
        """Seed of every run."""
        return [self.config.seed + r for r in range(len(self.starts))]

    @property
    def batched(self) -> bool:
        """Whether the runs advance together (torch engine) or one after another (compiled loop)."""
        resolved = self.resolved
        quantities = any(p.bounds for made in self.predictions for p in made.values())
        follows = in_python(resolved.algorithm, resolved.theorem.watch, quantities)
        return runs_in_torch(self.model, self.problem, self.config.engine, follows)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Data and weights at the start by name, float64, with the replica axis."""
        data = {"X": self.problem.X, "y": self.problem.y}
        kept = {k: v.cpu().double().numpy() for k, v in data.items()}
        if self.problem.mask is not None:  # 0 and 1, one copy per run as everything
            real = self.problem.mask.cpu().numpy().astype(np.uint8)
            kept["mask"] = np.repeat(real[None], self.problem.R, axis=0)
        return kept | self.params.numpy()

    def only(self, runs: range) -> Setting:
        """The same setting with some runs that follow one another; what is cached stays behind."""
        keep, asked = list(runs), self.config
        config = replace(asked, seed=asked.seed + keep[0], seeds=len(keep))
        return replace(
            self,
            resolved=replace(self.resolved, config=config),
            problem=Problem.stack([self.problem[r] for r in keep]),
            params=self.params[keep],
            starts=[replace(self.starts[r]) for r in keep],
            predictions=[self.predictions[r] for r in keep],
        )


def prepare(config: Config, given: Given | None = None) -> Setting | Cases:
    """Everything that is made before a check starts.

    Args:
        config: Options as given.
        given: What was handed over in memory.

    Returns:
        The setting of a descent, or the cases of a theorem that needs none.

    Raises:
        InputError: An option cannot be used.

    Example:
        >>> prepare(Config("full-gd", problem="stacked-witness")).config.statement
        'stacked'
    """
    require_working_directory()
    resolved = resolve(config, given)
    if resolved.architecture is None:
        return Cases(resolved)
    with one_thread():
        return _made(resolved)


def _made(resolved: Resolved) -> Setting:
    """Data and weights of every seed, or the replicas of a stored witness."""
    family, config, named = resolved.family, resolved.config, resolved.named
    problem = named.problem if named else _load(resolved, config.seed)
    sizes = family.sizes(config, problem, named.params if named else None)
    require_sizes(resolved.asked, sizes, problem.name)
    family.require_room(sizes, config.seeds, resolved.trained)
    if named and str(config.problem).endswith(".npz"):  # its replicas are the runs
        if config.seeds not in (1, problem.R):
            remedy = f"leave it out: {config.problem} fixes the start of every run"
            raise InputError("seeds", config.seeds, remedy)
        return assemble(resolved, problem, named.params)
    others = range(config.seed + 1, config.seed + config.seeds)  # the first one is there
    if named:
        kernel, name = str(config.kernel), str(config.problem)
        made = [named, *(named_problem(name, kernel, seed, family) for seed in others)]
        problems, weights = [m.problem for m in made], [m.params for m in made]
    else:
        problems = [problem, *(_load(resolved, seed) for seed in others)]
        weights = [_start(resolved, data, config.seed + r) for r, data in enumerate(problems)]
    return assemble(resolved, Problem.stack(problems), weights[0].stack(weights))


def _start(resolved: Resolved, problem: Problem, seed: int) -> Weights:
    """Weights of one seed for its data."""
    theorem, family, config = resolved.theorem, resolved.family, resolved.config
    sizes = family.sizes(config, problem, None)
    arrays = resolved.given.arrays()
    if arrays is not None:
        given: Weights = family.given(arrays, resolved.asked)
        require_sizes(resolved.asked, family.sizes(config, problem, given), "weights=")
        return given
    if config.init != "theorem":
        return family.draw(config, sizes, seed)
    model, judged = family.model(config, sizes), resolved.a_priori

    def at(params: Weights) -> Any:
        return model.point(problem, params, resolved.trained)

    def holds(params: Weights) -> bool:
        return all(h.holds for h in theorem.predict(judged, at(params)).hypotheses)

    base = theorem.base(sizes, seed, at)
    require_descent(at(base))
    solved: Weights = theorem.solve(base, holds, float(config.margin or FALLBACK["margin"]))
    return solved


def _load(resolved: Resolved, seed: int) -> Problem:
    """The data of one seed, labels rescaled where that is asked for."""
    family, config, given = resolved.family, resolved.config, resolved.given
    if given.X is None:
        problem = family.load(config, seed)
    else:
        masked = family.require_padding(given.mask)
        X, y, _ = blanked(given.X, given.y, given.mask)
        X, y = (real_array(name, v)[0] for name, v in (("X", X), ("y", y)))
        problem = family.problem(X[None], y[None], str(config.data), [], **masked)
    norm = config.label_norm
    return problem if norm is None else problem.with_label_norm(norm)


def assemble(resolved: Resolved, problem: Problem, params: Weights) -> Setting:
    """The setting around given data and weights, as `prepare` makes it or a saved run stored it.

    Args:
        resolved: What is checked; its sizes and number of seeds become those of the arrays.
        problem: Data, R replicas, float64 on the CPU.
        params: Start weights, R replicas.

    Returns:
        The setting.

    Raises:
        InputError: Data and weights do not fit each other, the loss is zero or not finite at a
            start, or the device is not there.
    """
    theorem, family, trained = resolved.theorem, resolved.family, resolved.trained
    family.require_match(problem, params)
    sizes = family.sizes(resolved.config, problem, params)
    family.require_room(sizes, problem.R, trained)
    known = {f.name for f in fields(Config)}
    actual: dict[str, Any] = {k: v for k, v in sizes.items() if k in known}
    config = replace(resolved.config, **actual, seeds=problem.R)
    model = family.model(config, sizes)
    starts = [model.point(problem[r], params[r], trained) for r in range(problem.R)]
    for start in starts:
        require_descent(start)
    dtype = getattr(torch, config.dtype)
    device = device_named(config.device, dtype)
    return Setting(
        resolved=replace(resolved, config=config),
        model=model,
        problem=problem.to(device, dtype),
        params=params.to(device, dtype),
        starts=starts,
        predictions=[
            {s.name: theorem.predict(s, start) for s in resolved.statements if not s.posterior}
            for start in starts
        ],
        notes=(*problem.notes, *family.notes(problem, params)),
    )
