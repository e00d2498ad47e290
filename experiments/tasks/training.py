"""Training of a classifier by SGD or Adam, with checkpoints from which a run goes on exactly.

The rows of step t depend on seed and t only, so two networks trained with one seed see the same
batches, and a run that was killed continues with the batches it would have seen.
"""

from __future__ import annotations

import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor, nn

from experiments.tasks.classifier import accuracy_and_loss
from gdconv.data.draws import whole
from gdconv.support.errors import InputError
from gdconv.support.files import replaced

OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}

DAMAGE = (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, AttributeError)
"""What torch.load and loading a state raise on a damaged or foreign checkpoint."""

STREAM = 11
"""Separate random stream for the batches."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a network is trained.

    Attributes:
        steps: Steps.
        batch: Samples a step.
        rate: Learning rate, reached linearly over the first `warmup` steps, then constant.
        optimiser: "sgd" (no momentum) or "adam".
        every: Steps between two evaluations.
        seed: Of the batches.
        warmup: Steps of the linear rise.

    Raises:
        InputError: A value out of range.

    Example:
        >>> TrainingPlan(10, 4, 0.1, "sgd", every=5).steps
        10
        >>> TrainingPlan(10, 4, 0.1, "lion", every=5)
        Traceback (most recent call last):
        gdconv.support.errors.InputError: optimiser = lion: give sgd or adam.
    """

    steps: int
    batch: int
    rate: float
    optimiser: str
    every: int
    seed: int = 0
    warmup: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("every", 1), ("seed", 0), ("warmup", 0)):
            whole(name, getattr(self, name), least)
        if not (isfinite(self.rate) and self.rate > 0):
            raise InputError("rate", self.rate, "give a number above 0")
        if self.optimiser not in OPTIMISERS:
            raise InputError("optimiser", self.optimiser, f"give {' or '.join(OPTIMISERS)}")


@dataclass(frozen=True)
class Samples:
    """Inputs and classes for training and for evaluation.

    Attributes:
        X: Training inputs, first axis samples.
        y: Their classes.
        X_held: Inputs of the evaluation.
        y_held: Their classes.
    """

    X: Tensor
    y: Int[Tensor, " N"]
    X_held: Tensor
    y_held: Int[Tensor, " M"]

    def to(self, device: str | torch.device) -> Samples:
        """The same on another device."""
        return Samples(*(t.to(device) for t in (self.X, self.y, self.X_held, self.y_held)))


@dataclass
class TrainingRun:
    """What a run has measured so far.

    Attributes:
        rows: One dictionary per evaluation: step, train_loss (mean over the steps since the last
            one, at step 0 None), accuracy, loss, seconds (of training, evaluations left out).
        diverged: The step at which a loss was not finite, None if there was none.
        seconds: Time spent in steps.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    diverged: int | None = None
    seconds: float = 0.0

    def table(self, **names: str | float) -> pd.DataFrame:
        """The rows as a table, names in the first columns, and whether the run diverged.

        Args:
            names: Values by column.

        Returns:
            The table.
        """
        made = pd.DataFrame(self.rows)
        made["train_loss"] = made["train_loss"].astype(float)
        for place, (name, value) in enumerate(names.items()):
            made.insert(place, name, value)
        return made.assign(diverged=self.diverged is not None)


def batch_rows(seed: int, step: int, samples: int, batch: int) -> Int[np.ndarray, " b"]:
    """Rows of one step: consecutive parts of a new order of the samples in every epoch.

    Args:
        seed: Of the batches.
        step: Number of the step, from 0.
        samples: N.
        batch: Samples a step; what is left of an epoch is dropped, with fewer samples all are used.

    Returns:
        Row numbers.

    Example:
        >>> sorted(int(i) for s in range(3) for i in batch_rows(0, s, 6, 2))
        [0, 1, 2, 3, 4, 5]
    """
    batch = min(batch, samples)
    epoch, part = divmod(step, samples // batch)
    return _order(seed, epoch, samples)[part * batch : (part + 1) * batch]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, samples: int) -> Int[np.ndarray, " N"]:
    return np.random.default_rng([STREAM, seed, epoch]).permutation(samples)


def train(
    net: nn.Module,
    samples: Samples,
    plan: TrainingPlan,
    checkpoint: Path | None = None,
    progress: Callable[[int], object] | None = None,
    mark: str = "",
) -> TrainingRun:
    """Train in place; evaluations at step 0, every `plan.every` steps and at the end.

    Args:
        net: The network, on the device of the samples.
        samples: Data.
        plan: How.
        checkpoint: File to go on from and to save to at every evaluation; a damaged one, or one
            of another plan or mark, is not used.
        progress: Told, after saving, how many steps were done since it was told last; what it
            raises ends the run.
        mark: Names data and network in the checkpoint.

    Returns:
        The measurements; a run whose loss is not finite ends there.

    Example:
        >>> X = torch.tensor([[0.0], [1.0]] * 8)
        >>> y = (X[:, 0] > 0.5).long()
        >>> net = nn.Linear(1, 2)
        >>> run = train(net, Samples(X, y, X, y), TrainingPlan(200, 4, 1.0, "sgd", every=100))
        >>> [row["step"] for row in run.rows], run.rows[-1]["accuracy"]
        ([0, 100, 200], 1.0)
    """
    optimiser = OPTIMISERS[plan.optimiser](net.parameters(), lr=plan.rate)
    name = f"{plan} {mark}"
    run, step = _resume(checkpoint, name, net, optimiser)
    if progress is not None and step:
        progress(step)
    if not run.rows:
        _evaluate(run, net, samples, step, None)
    while step < plan.steps and run.diverged is None:
        stop = min(plan.steps, step - step % plan.every + plan.every)
        started, losses = time.perf_counter(), []
        for t in range(step, stop):
            losses.append(_step(net, optimiser, samples, plan, t))
        mean = float(torch.stack(losses).mean())
        run.seconds += time.perf_counter() - started
        if isfinite(mean):
            _evaluate(run, net, samples, stop, mean)
        if not isfinite(mean) or not isfinite(run.rows[-1]["loss"]):
            run.diverged = stop
        if checkpoint is not None:
            _save(checkpoint, name, net, optimiser, run, stop)
        if progress is not None:
            progress(stop - step)
        step = stop
    return run


def _step(
    net: nn.Module, optimiser: torch.optim.Optimizer, samples: Samples, plan: TrainingPlan, t: int
) -> Tensor:
    """One step; the loss before it, still on its device."""
    rows = torch.from_numpy(batch_rows(plan.seed, t, len(samples.y), plan.batch))
    rows = rows.to(samples.y.device)
    for group in optimiser.param_groups:
        group["lr"] = plan.rate * min(1.0, (t + 1) / max(1, plan.warmup))
    loss = nn.functional.cross_entropy(net(samples.X[rows]), samples.y[rows])
    optimiser.zero_grad()
    loss.backward()
    with torch.device(loss.device):  # Adam's count of steps begins on the default device
        optimiser.step()
    return loss.detach()


def _evaluate(
    run: TrainingRun, net: nn.Module, samples: Samples, step: int, train_loss: float | None
) -> None:
    net.eval()
    accuracy, loss = accuracy_and_loss(net, samples.X_held, samples.y_held)
    net.train()
    row = {"step": step, "train_loss": train_loss, "accuracy": accuracy, "loss": loss}
    run.rows.append(row | {"seconds": run.seconds})


def _save(
    checkpoint: Path,
    name: str,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    run: TrainingRun,
    step: int,
) -> None:
    """Write beside its place and rename: a run killed meanwhile keeps the one before."""
    state = {"name": name, "step": step, "run": asdict(run)}
    state |= {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
    with replaced(checkpoint) as stream:
        torch.save(state, stream)


def _resume(
    checkpoint: Path | None, name: str, net: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[TrainingRun, int]:
    """State of the checkpoint, or a new run."""
    if checkpoint is None or not checkpoint.is_file():
        return TrainingRun(), 0
    device = next(net.parameters()).device
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["name"] != name:
            return TrainingRun(), 0
        run = TrainingRun(**state["run"])
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        return run, int(state["step"])
    except (*DAMAGE, pickle.UnpicklingError, zipfile.BadZipFile):
        net.load_state_dict(before)
        return TrainingRun(), 0
