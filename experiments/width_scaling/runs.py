"""One run of the width experiment: gradient descent, its linearisation, kernel and movement.

The linearised residual obeys l_{t+1} = l_t - eta K_0 l_t. Everything is recorded at two moments: at
the first step with loss <= `TARGET` times the initial loss (equal loss) and at the last step (equal
steps).
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.width_scaling.limit import relative_distance
from experiments.width_scaling.step import Descent
from gdconv.data import sources
from gdconv.data.idx import load_folder
from gdconv.data.images import digit_patches
from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import default_tau_1, initialize_encoder, scaling
from gdconv.models.encoder.tangent import block_kernels
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.initialization import initialize
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.tangent import tangent_kernel
from gdconv.support.errors import InputError

TARGET = 0.1
"""Loss ratio of the records at equal loss."""

TRAINED = {"encoder": ("W_Q", "W_K", "W_V", "w_O"), "multihead": ("W_Q", "W_K", "W_V")}


@dataclass(frozen=True)
class Case:
    """One run; two runs with equal fields give equal numbers.

    Attributes:
        model: encoder or multihead.
        data: synthetic (tokens on the unit sphere, normal labels), digits (patches), or a folder
            with MNIST.
        init: Rule of the weights.
        scaling: linear or sqrt (tau_0); for multihead the attention kernel.
        width: d_m, or H for multihead.
        seed: Of data and weights.
        epochs: Steps.
        samples: N.
        tokens: n.
        embedding: D of the synthetic data.
        eta: Step size; 0 means 1/lambda_max(K_0).
        tau_1: Factor of the output; 0 means 1, for ntk d_m^(-1/2); -1 means d_m^(-1/2) always.
        mean_loss: Whether the loss is averaged over samples instead of summed.
        head_dim: d of multihead.
    """

    model: str
    data: str
    init: str
    scaling: str
    width: int
    seed: int
    epochs: int = 400
    samples: int = 100
    tokens: int = 2
    embedding: int = 16
    eta: float = 0.0
    tau_1: float = 0.0
    mean_loss: bool = False
    head_dim: int = 8

    @property
    def key(self) -> str:
        """Text that tells this run from all others."""
        text = repr(sorted(asdict(self).items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cost(self) -> float:
        """Steps."""
        return self.epochs


def problem_of(case: Case) -> Problem:
    """The data of a case.

    Synthetic tokens are uniform on the unit sphere, labels standard normal.

    Args:
        case: The case.

    Returns:
        Data, one label per sample (per token for multihead).

    Example:
        >>> problem = problem_of(Case("encoder", "synthetic", "ntk", "sqrt", 8, 0, samples=3))
        >>> bool((problem.X.norm(dim=-1) - 1).abs().max() < 1e-14), tuple(problem.y.shape)
        (True, (1, 3, 1, 1))
    """
    if case.data == "digits":
        return digit_patches(case.samples, case.tokens, case.seed)
    if case.data != "synthetic":
        return load_folder(case.data, case.samples, case.tokens, case.seed)
    drawn = sources.gaussian(case.samples, case.tokens, case.embedding, seed=case.seed)
    X = (drawn.X[0] / drawn.X[0].norm(dim=-1, keepdim=True)).numpy()
    if case.model == "multihead":
        return Problem.from_arrays(X, drawn.y[0].numpy(), "synthetic")
    return Problem.per_sample(X, drawn.y[0, :, 0, 0].numpy(), "synthetic")


def run_case(case: Case, tell: Callable[[float], object] = lambda steps: None) -> dict[str, Any]:
    """Everything that one run yields.

    Args:
        case: The run.
        tell: Told after every step.

    Returns:
        The fields of the case and what was measured, plain numbers.

    Raises:
        InputError: The given step size is 2/lambda_max(K_0) or larger.
    """
    began = time.perf_counter()
    problem = problem_of(case)
    make = _encoder if case.model == "encoder" else _heads
    kernel, residuals, params, facts = make(case, problem)
    K_0 = kernel()
    eigenvalues = torch.linalg.eigvalsh(K_0)
    greatest = float(eigenvalues[-1])
    eta = case.eta or 1 / greatest
    if eta >= 2 / greatest:
        remedy = f"give less than 2/lambda_max(K_0) = {2 / greatest:.3g}, or --loss mean"
        raise InputError("eta", eta, f"{remedy} with a smaller --tau-1")
    facts |= {"eta": eta, "lambda_max": greatest, "lambda_min": float(eigenvalues[0])}
    start = {b: getattr(params, b).clone() for b in TRAINED[case.model]}

    def record(moment: str, step: int, now: Tensor, line: Tensor) -> dict[str, float]:
        return {
            f"{moment}_step": float(step),
            f"{moment}_loss_ratio": float((now.norm() / first.norm()) ** 2),
            f"{moment}_linear_ratio": float((line.norm() / first.norm()) ** 2),
            f"{moment}_linear_error": float((now - line).norm() / first.norm()),
            f"{moment}_kernel_change": float((kernel() - K_0).norm() / K_0.norm()),
            **{f"{moment}_moved_{b}": v for b, v in _movement(params, start).items()},
        }

    found: dict[str, float] = {}
    for step, residual in enumerate(residuals(eta, case.epochs)):
        if step == 0:
            first = line = residual.clone()
        if "target_step" not in found and residual.norm() ** 2 <= TARGET * first.norm() ** 2:
            found |= record("target", step, residual, line)
        if step == case.epochs:
            found |= record("end", step, residual, line)
            break
        line = line - eta * (K_0 @ line)
        tell(1)
    spent = {"seconds": time.perf_counter() - began, "peak_rss_mib": peak_rss()}
    return asdict(case) | facts | found | spent


def _movement(params: Any, start: dict[str, Tensor]) -> dict[str, float]:
    """|W_t - W_0|_F / |W_0|_F by block and together."""
    moved = {b: float((getattr(params, b) - W).norm()) for b, W in start.items()}
    size = {b: float(W.norm()) for b, W in start.items()}
    total = sum(m * m for m in moved.values()) ** 0.5 / sum(s * s for s in size.values()) ** 0.5
    return {b: moved[b] / size[b] for b in start} | {"total": total}


def _encoder(case: Case, problem: Problem) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Kernel, residuals and weights of an encoder run, and what is known at step 0."""
    d_m = case.width
    tau_1 = case.tau_1 or default_tau_1(case.init, d_m)
    tau_1 = d_m**-0.5 if tau_1 < 0 else tau_1
    loss_scale = 1 / problem.N if case.mean_loss else 1.0
    model = ShallowEncoder(scaling(case.scaling, d_m), tau_1, loss_scale)
    params = initialize_encoder(case.init, (d_m, problem.D), case.seed)

    def kernel() -> Tensor:
        return sum(block_kernels(model, problem, params).values())[0]  # type: ignore[index]

    parts = block_kernels(model, problem, params)
    square = float(torch.linalg.eigvalsh(parts["w_O"][0])[0]) if d_m >= problem.N else 0.0
    K = torch.stack(list(parts.values())).sum(0)
    facts = {"N": problem.N, "n": problem.n, "D": problem.D, "alpha_squared": max(square, 0.0)}
    if case.init == "ntk" and not case.tau_1:
        facts["limit_distance"] = float(relative_distance(K, problem, loss_scale)[0])
    facts |= {f"share_{b}": float(part.norm() / K.norm()) for b, part in parts.items()}
    run = Descent(model, problem, params)

    def residuals(eta: float, epochs: int) -> Iterator[Tensor]:
        for _ in range(epochs):
            yield run.look()
            run.move(eta)
        yield run.look()

    return kernel, residuals, params, facts


def _heads(case: Case, problem: Problem) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The same for multi-head attention with H heads; `features` B plays the part of F_pre."""
    model = MultiHeadRegression(kernel_named(case.scaling))
    shape = (case.width, problem.D, case.head_dim, 1)
    params = initialize(case.init, shape, case.seed)

    def kernel() -> Tensor:
        return tangent_kernel(model, problem, params)[0]

    B = model.features(problem, model.forward(problem, params))[0]
    square = float(torch.linalg.svdvals(B)[-1]) ** 2 if B.shape[1] >= B.shape[0] else 0.0
    facts = {"N": problem.N, "n": problem.n, "D": problem.D, "alpha_squared": square}

    def residuals(eta: float, epochs: int) -> Iterator[Tensor]:
        for _ in range(epochs):
            at, gradient = model.gradient(problem, params)
            yield at.residual.flatten()
            for b in TRAINED["multihead"]:
                getattr(params, b).sub_(eta * getattr(gradient, b))
        yield model.forward(problem, params).residual.flatten()

    return kernel, residuals, params, facts


def peak_rss() -> float:
    """Greatest resident memory of this process so far, in MiB."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit / 2**20
