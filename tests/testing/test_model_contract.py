"""Every check of a model's contract has a model that breaks it: exactly the checks named fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gdconv.models.generic.family import ModuleFamily
from gdconv.models.generic.model import ModuleModel
from gdconv.models.generic.nets import TwoLayer
from gdconv.support.errors import InputError
from gdconv.testing import ContractError, check_model, model_checks

NET = TwoLayer(samples=3, inputs=2, width=4)


@dataclass(frozen=True)
class NegativeLoss(ModuleModel):
    def _passed(self, problem: Any, F: Tensor) -> Any:
        at = super()._passed(problem, F)
        return replace(at, loss=at.loss - 10)


@dataclass(frozen=True)
class RowsInAnotherOrder(ModuleModel):
    def jacobian(self, problem: Any, params: Any, blocks: Any) -> Tensor:
        return super().jacobian(problem, params, blocks).flip(1)


@dataclass(frozen=True)
class ColumnsInAnotherOrder(ModuleModel):
    def jacobian(self, problem: Any, params: Any, blocks: Any) -> Tensor:
        return super().jacobian(problem, params, blocks).flip(2)


@dataclass(frozen=True)
class WrongGradient(ModuleModel):
    share = 0.01

    def gradient(self, problem: Any, params: Any, at: Any = None) -> Any:
        passed, found = super().gradient(problem, params, at)
        last = params.trained[-1]
        return passed, found.with_blocks({last: (1 + self.share) * found.blocks()[last]})


@dataclass(frozen=True)
class SlightlyWrongGradient(WrongGradient):
    share = 1e-8


@dataclass(frozen=True)
class WrongKernel(ModuleModel):
    def tangent_kernel(self, problem: Any, params: Any, blocks: Any) -> Tensor:
        return super().tangent_kernel(problem, params, blocks).tril()


@dataclass(frozen=True)
class WrongKernelTimes(ModuleModel):
    def kernel_times(
        self, problem: Any, params: Any, v: Tensor, blocks: Any, at: Any = None
    ) -> Tensor:
        found = super().kernel_times(problem, params, v, blocks, at)
        return found if at is None else 2 * found


@dataclass(frozen=True)
class AnotherLossAlone(ModuleModel):
    def _passed(self, problem: Any, F: Tensor) -> Any:
        at = super()._passed(problem, F)
        return replace(at, loss=at.loss + 1) if len(F) == 1 else at


@dataclass(frozen=True)
class AnotherStep(ModuleModel):
    def probe(self, problem: Any, params: Any, trained: Any) -> Any:
        found = super().probe(problem, params, trained)
        more = {b: 1.001 * g for b, g in found.gradient.blocks().items()}
        return replace(found, gradient=found.gradient.with_blocks(more))


@dataclass(frozen=True)
class NoNoise(ModuleModel):
    def probe(self, problem: Any, params: Any, trained: Any) -> Any:
        found = super().probe(problem, params, trained)
        return replace(found, noise_scale=1e-5 * found.noise_scale)


@dataclass(frozen=True)
class ChangesWeights(ModuleModel):
    def gradient(self, problem: Any, params: Any, at: Any = None) -> Any:
        found = super().gradient(problem, params, at)
        params.blocks()[params.trained[0]].mul_(1 + 1e-15)
        return found


class WithModel(ModuleFamily):
    """A sound network under a model with a fault."""

    def __init__(self, kind: type[ModuleModel]) -> None:
        super().__init__(NET, "net")
        self.under = kind

    def model(self, config: Any, sizes: Any) -> ModuleModel:
        made = super().model(config, sizes)
        return self.under(**{f.name: getattr(made, f.name) for f in fields(made)})


class Rounds(ModuleFamily):
    """Weights come back in float32."""

    def from_arrays(self, arrays: dict[str, np.ndarray]) -> Any:
        made = super().from_arrays(arrays)
        return made.with_blocks({k: v.float().double() for k, v in made.blocks().items()})


class WrongBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * (1 - ctx.saved_tensors[0])


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 4), nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, X: Tensor) -> Tensor:
        return self.outer(self.inner(X).tanh())  # type: ignore[no-any-return]


class Draws(Base):
    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X) + 0 * torch.randn(1)


class DrawsWithNumpy(Base):
    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X) + 0 * float(np.random.rand())  # noqa: NPY002


class Counts(Base):
    def forward(self, X: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(X)


class Unused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(2))


class Misderived(Base):
    def forward(self, X: Tensor) -> Tensor:
        return self.outer(WrongBackward.apply(self.inner(X)))  # type: ignore[no-any-return]


DATA: dict[str, Any] = {"X": [[1.0, 0.5], [-0.5, 2.0]], "y": [[1.0], [0.0]]}
BROKEN: dict[str, tuple[Callable[[], Any], dict[str, Any], set[str]]] = {
    "a loss below 0": (lambda: WithModel(NegativeLoss), {}, {"outputs", "step"}),
    "rows": (lambda: WithModel(RowsInAnotherOrder), {}, {"jacobian", "agreement"}),
    "columns": (lambda: WithModel(ColumnsInAnotherOrder), {}, {"jacobian", "agreement"}),
    "gradient": (lambda: WithModel(WrongGradient), {}, {"gradient", "agreement", "step"}),
    "gradient, slightly": (lambda: WithModel(SlightlyWrongGradient), {}, {"agreement", "step"}),
    "kernel": (lambda: WithModel(WrongKernel), {}, {"kernel"}),
    "kernel_times": (lambda: WithModel(WrongKernelTimes), {}, {"kernel"}),
    "replicas": (lambda: WithModel(AnotherLossAlone), {}, {"replicas"}),
    "step": (lambda: WithModel(AnotherStep), {}, {"step"}),
    "noise": (lambda: WithModel(NoNoise), {}, {"noise"}),
    "weights": (lambda: Rounds(NET, "net"), {}, {"weights"}),
    "changes its weights": (lambda: WithModel(ChangesWeights), {}, {"pure"}),
    "torch's random state": (Draws, DATA, {"pure"}),
    "numpy's random state": (DrawsWithNumpy, DATA, {"pure"}),
    "a buffer": (Counts, DATA, {"pure"}),
    "an unused parameter": (Unused, DATA, {"match"}),
    "backward": (Misderived, DATA, {"match", "jacobian", "gradient"}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_fails_its_checks_and_no_other(fault: str) -> None:
    made, options, wanted = BROKEN[fault]
    failed, model = set(), made()
    for name, check in model_checks(model() if isinstance(model, type) else model, **options):
        try:
            check()
        except (ContractError, InputError):
            failed.add(name)
    assert failed == wanted


class Product(nn.Module):
    """F = a b x: |J(theta + u) - J(theta)| = |u| |x|, |J| = |theta| |x|."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))

    def forward(self, X: Tensor) -> Tensor:
        return self.a * self.b * X


@pytest.mark.parametrize(("M", "G", "said"), [
    (1.0, 1.0, None), (0.99, 1.0, "more than M"), (1.0, 0.99, r"more than G\^2"),
    (float("nan"), 1.0, "more than M"), (float("inf"), 0.5, r"more than G\^2"),
])  # fmt: skip
def test_a_claimed_constant_that_is_too_small_is_found(M: float, G: float, said: str) -> None:
    def claims(point: Any, rho: float) -> tuple[float, float]:
        return M, (G * (5**0.5 + rho)) ** 2

    one = dict(model_checks(Product(), [[1.0]], [[0.0]], constants=claims))["constants"]
    if said is None:
        assert one() == ""
        return
    with pytest.raises(ContractError, match=f"check constants: .*{said}"):
        one()


def test_check_model_raises_the_first_and_names_model_and_check() -> None:
    with pytest.raises(ContractError, match="^net breaks the contract, check jacobian: row "):
        check_model(WithModel(RowsInAnotherOrder))
