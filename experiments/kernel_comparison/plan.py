"""The two tasks of the kernel comparison and the sizes it is run at."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from experiments.harness.units import fingerprint
from experiments.tasks.trained import Task
from experiments.tasks.training import TrainingPlan

KERNELS = ("softmax", "gaussian")

SEARCH_SEED, FIRST_SEED = 1000, 100
"""First seed of the search for a learning rate, and of the comparison."""


VERSION = 1
"""Of what a run computes; part of a checkpoint's mark."""


@dataclass(frozen=True)
class Spec:
    """One training run.

    Attributes:
        task: The task.
        kernel: softmax or gaussian.
        stage: "search" (a rate is tried on validation data) or "final" (test data).
        rate: Learning rate.
        seed: Of weights and batches.
        model: As in `Preset`.
    """

    task: Task
    kernel: str
    stage: str
    rate: float
    seed: int
    model: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        """Name of its checkpoint.

        Example:
            >>> from experiments.tasks.trained import PRESETS
            >>> Spec(PRESETS["small"].tasks[0], "softmax", "final", 0.1, 2, ()).key
            'text-softmax-final-0.1-2'
        """
        return f"{self.task.name}-{self.kernel}-{self.stage}-{self.rate:g}-{self.seed}"

    @property
    def mark(self) -> str:
        """Names all that the result depends on but the training plan."""
        # These change no single run, so a change of them keeps its checkpoint.
        other = ("levels", "cache", "rates", "search_steps")
        parts = {k: v for k, v in asdict(self.task).items() if k not in other}
        parts |= {"kernel": self.kernel, "stage": self.stage, "model": self.model, "v": VERSION}
        return fingerprint(parts)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.task.search_steps if self.stage == "search" else self.task.steps

    def plan(self) -> TrainingPlan:
        """How it is trained.

        Returns:
            The plan.
        """
        task = self.task
        return TrainingPlan(
            *(self.steps, task.batch, self.rate, task.optimiser, task.every, self.seed),
            warmup=task.warmup,
        )
