"""The loss of a trained classifier on planes of a W_Q and a W_K direction.

A plane moves the query weights of every layer along one axis and the key weights of every layer
along the other; biases and all other weights stay. The loss is the cross-entropy over a fixed part
of the training set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, vmap

from experiments.loss_landscape.plan import SECOND_SEED, Preset, Stages, mark_of
from experiments.tasks.classifier import TransformerClassifier
from experiments.tasks.landscape import Block, filter_normalised
from experiments.tasks.trained import Data, load
from experiments.tasks.training import TrainingPlan, TrainingRun, train

Directions = tuple[Block, Block, dict[str, float]]
"""u, v and what is known of them, such as eigenvalues."""

STREAM = 23
"""Separate random stream for the directions."""

UNIT = 2.0**-23
"""Rounding unit of the networks, which compute in float32."""

TOLERANCE = 1e-2
"""Relative accuracy of a leading eigenvalue: a direction to look along need not be exact."""


def two_stages(
    stages: Stages,
    preset: Preset,
    kernel: str,
    seed: int,
    folder: Path,
    device: str,
    told: Callable[[int], None] | None = None,
) -> tuple[TransformerClassifier, TrainingRun]:
    """Train with softmax, then go on with a kernel from the same weights.

    The optimiser starts anew in the second stage, for both kernels.

    Args:
        stages: Task and steps.
        preset: Sizes.
        kernel: Of the second stage.
        seed: Of weights and batches.
        folder: Folder of the checkpoints.
        device: "cpu" or "cuda".
        told: Called with the steps done.

    Returns:
        The network after both stages, and the measurements of the second.
    """
    task, data = stages.task, load(stages.task)
    sizes, samples = data.network(preset.model), data.samples("final").to(device)
    rest = (task.batch, stages.rate, task.optimiser, task.every)
    mark = mark_of(task, preset.model, stages.rate)
    first = TrainingPlan(stages.first, *rest, seed, warmup=task.warmup)
    second = TrainingPlan(stages.second, *rest, SECOND_SEED + seed, warmup=task.warmup)
    start = TransformerClassifier(sizes, "softmax", seed=seed).to(device)
    train(start, samples, first, folder / f"{task.name}-first-{seed}.pt", told, mark)
    net = TransformerClassifier(sizes, kernel, seed=seed).to(device)
    net.load_state_dict(start.state_dict())
    place = folder / f"{task.name}-{kernel}-{seed}.pt"
    run = train(net, samples, second, place, told, f"{mark} {first} {kernel}")
    return net.eval().requires_grad_(False), run


def evaluation_set(data: Data, samples: int, device: str) -> tuple[Tensor, Tensor]:
    """The first training samples, which are in random order.

    Args:
        data: The data.
        samples: How many.
        device: Where to.

    Returns:
        Inputs and classes.
    """
    return data.X[:samples].to(device), data.y[:samples].to(device)


def attention_parts(net: TransformerClassifier) -> tuple[Block, dict[str, slice]]:
    """The weights that hold W_Q and W_K, and which of their rows do.

    Args:
        net: The network.

    Returns:
        Weights by name, (3 H c, D), and the rows of "W_Q" and "W_K".

    Example:
        >>> from experiments.tasks.classifier import ClassifierSizes
        >>> net = TransformerClassifier(ClassifierSizes(tokens=4, symbols=5), "softmax")
        >>> len(attention_parts(net)[0]), attention_parts(net)[1]["W_K"]
        (2, slice(64, 128, None))
    """
    width = net.sizes.H * net.sizes.c
    names = [n for n, _ in net.named_parameters() if n.endswith("queries_keys_values.weight")]
    weights = {name: net.get_parameter(name).detach() for name in names}
    return weights, {"W_Q": slice(0, width), "W_K": slice(width, 2 * width)}


def losses_of(net: nn.Module, X: Tensor, y: Tensor) -> Callable[[Block], Tensor]:
    """Losses of weights with a leading axis of grid points.

    Args:
        net: The network.
        X: Inputs.
        y: Classes.

    Returns:
        The function `experiments.tasks.landscape.plane_losses` takes.
    """

    def loss(block: Block) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net, block, (X,)), y)

    return vmap(loss)


def random_directions(net: TransformerClassifier, seed: int, draw: int) -> tuple[Block, Block]:
    """Filter-normalised directions of W_Q and W_K from the same draw for every kernel.

    Args:
        net: The network.
        seed: Seed of the network.
        draw: Number of the draw.

    Returns:
        u and v.
    """
    weights, rows = attention_parts(net)
    rng = np.random.default_rng([STREAM, seed, draw])
    normal = {name: torch.from_numpy(rng.standard_normal(W.shape)) for name, W in weights.items()}
    made: list[Block] = []
    for part in ("W_Q", "W_K"):
        block = {name: torch.zeros_like(W) for name, W in weights.items()}
        for name, W in weights.items():
            here = rows[part]
            block[name][here] = filter_normalised(normal[name][here].to(W), W[here], 1)
        made.append(block)
    return made[0], made[1]


def leading_directions(
    net: TransformerClassifier, X: Tensor, y: Tensor, count: int, seed: int = 0
) -> list[Directions]:
    """Eigenvectors of the largest eigenvalues of the W_Q block and of the W_K block of the Hessian.

    Each has the norm of its block of weights, so that 1 means what it means for a random direction.

    Args:
        net: The network.
        X: Inputs of the loss.
        y: Classes.
        count: How many of each.
        seed: Of the start vectors.

    Returns:
        u, v and the two eigenvalues along unit vectors, the leading pair first.
    """
    weights, rows = attention_parts(net)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part, here in rows.items():
        apply, size = _block_product(net, weights, here, X, y)
        operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
        start = np.random.default_rng([STREAM, seed]).standard_normal(size)
        room = min(size, max(4 * count, 16))
        values, vectors = eigsh(operator, count, which="LA", v0=start, tol=TOLERANCE, ncv=room)
        order = np.argsort(values)[::-1]
        found[part] = values[order], vectors[:, order].T
    made: list[Directions] = []
    for i in range(count):
        u, v = (_block_of(weights, rows[part], found[part][1][i]) for part in rows)
        made.append((u, v, {f"eigenvalue_{part}": float(found[part][0][i]) for part in rows}))
    return made


def _block_product(
    net: nn.Module, weights: Block, rows: slice, X: Tensor, y: Tensor
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """v -> H v for some rows of all the weights, by differentiating the gradient along v."""
    free = {name: W.clone().requires_grad_() for name, W in weights.items()}
    loss = nn.functional.cross_entropy(functional_call(net, free, (X,)), y)
    leaves = list(free.values())
    gradient = torch.autograd.grad(loss, leaves, create_graph=True)
    like = torch.cat([g[rows].flatten() for g in gradient])

    def apply(v: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(np.asarray(v).ravel()).to(like)
        made = torch.autograd.grad(like, leaves, along, retain_graph=True)
        return torch.cat([g[rows].flatten() for g in made]).double().cpu().numpy()

    return apply, like.numel()


def _block_of(weights: Block, rows: slice, vector: np.ndarray) -> Block:
    """A vector over some rows as a direction as long as those rows of the weights."""
    length = float(torch.stack([W[rows].norm() for W in weights.values()]).norm())
    values = torch.from_numpy(vector * (length / np.linalg.norm(vector)))
    made, at = {}, 0
    for name, W in weights.items():
        made[name] = torch.zeros_like(W)
        part = W[rows]
        made[name][rows] = values[at : at + part.numel()].view(part.shape).to(W)
        at += part.numel()
    return made


def planes_of(
    net: TransformerClassifier, preset: Preset, X: Tensor, y: Tensor, seed: int
) -> Iterator[tuple[str, int, Callable[[], Directions]]]:
    """All planes of one network: kind, number, and what makes its directions.

    The leading pairs are found together and only when one of them is asked for.

    Args:
        net: The network.
        preset: Sizes.
        X: Inputs of the loss.
        y: Classes.
        seed: Seed of the network.

    Yields:
        One plane at a time.
    """

    def drawn(draw: int) -> Directions:
        return *random_directions(net, seed, draw), {}

    for draw in range(preset.draws):
        yield "random", draw, partial(drawn, draw)
    pairs: list[Directions] = []

    def leading(number: int) -> Directions:
        if not pairs:
            pairs.extend(leading_directions(net, X, y, preset.leading, seed))
        return pairs[number]

    for number in range(preset.leading):
        yield "hessian", number, partial(leading, number)
