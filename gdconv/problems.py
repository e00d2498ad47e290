"""Named problems: data and weights fixed exactly, the witnesses of the theory.

Each entry returns a problem, its weights, and the options it suggests. `--problem FILE.npz` loads a
saved witness instead (X, y, W_Q, W_K, W_V, W_O).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gdconv.data import read_arrays
from gdconv.errors import InputError
from gdconv.initialization import spread_scores
from gdconv.kernels import kernel_named
from gdconv.models.multihead import MultiHeadRegression, Parameters
from gdconv.problem import Problem


class Named(NamedTuple):
    """A problem with its weights and the options under which it makes its point."""

    problem: Problem
    params: Parameters
    options: dict[str, Any]


def _named(name: str, X: Any, y: Any, weights: dict[str, Any], note: str, **options: Any) -> Named:
    problem = Problem.from_arrays(
        np.asarray(X, float), np.asarray(y, float), name=name, notes=(note,)
    )
    arrays = {block: np.asarray(W, float) for block, W in weights.items()}
    return Named(problem, Parameters.from_arrays(arrays), options)


def stacked_witness(kernel: str, seed: int) -> Named:
    """W1: one token, three heads, only the first one reaches the output.

    X = 1, y = 1, W_O = (1, 0, 0)^T, W_Q = W_K = W_V = 0. The printed constant read as sigma_min of
    the concatenated W_O gives beta = 3; the true factor of the loss is (1 - eta)^2 > 1 - 3 eta.

    Args:
        kernel: Attention kernel; the witness is the same for all.
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.
    """
    zero = np.zeros((3, 1, 1))
    weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": [[[1.0]], [[0.0]], [[0.0]]]}
    note = "witness W1: two of the three heads have W_O = 0, B_0 counts them all the same"
    options = {"statement": "stacked", "step": "theory", "steps": 50, "until_bound": 1e-9}
    return _named("stacked-witness", [[[1.0]]], [[1.0]], weights, note, **options)


def stacked_aligned(kernel: str, seed: int) -> Named:
    """R1: a generic lazy problem, four equal heads, labels along the slowest direction of B_0."""
    X = np.random.default_rng([seed, 2]).standard_normal((2, 2, 8))
    blank = Problem.from_arrays(X, np.zeros((2, 2)))
    model = MultiHeadRegression(kernel_named(kernel))

    def features(params: Parameters) -> np.ndarray:
        return model.features(blank, model.forward(blank, params))[0].numpy()

    params = spread_scores((4, 8, 4, 1), seed, lambda p: float(np.linalg.svd(features(p))[1][-1]))
    params = replace(params, W_O=1e3 * params.W_O)
    slowest = np.linalg.svd(features(params))[0][:, -1].reshape(2, 2)
    note = "recipe R1: W_V = 0, equal heads, labels = the left singular vector of B_0 at sigma_min"
    weights = {name: W[0] for name, W in params.numpy().items()}
    return _named("stacked-aligned", X, slowest, weights, note, statement="stacked", step="theory")


def stacked_stationary(kernel: str, seed: int) -> Named:
    """A stationary start of the Gaussian kernel at which the printed reading still predicts a rate.

    Two heads of width 1, two outputs, W_O = I: each output sees one head only, and the labels are
    orthogonal to what that head can reach, so the loss never moves.

    Args:
        kernel: Must be "gaussian".
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.

    Raises:
        InputError: The kernel is another one.
    """
    if kernel != "gaussian":
        raise InputError(
            "kernel", kernel, "give gaussian: this witness is about the Gaussian kernel"
        )
    zero = np.zeros((2, 1, 1))
    weights = {
        "W_Q": [[[0.0]], [[1.0]]],
        "W_K": zero,
        "W_V": zero,
        "W_O": [[[1.0, 0.0]], [[0.0, 1.0]]],
    }
    note = (
        "each output is reached by one head, sigma_min(W_O,h) = 0: "
        "the gradient is zero at the start"
    )
    y = [[[-2e-3, 0.0]], [[1e-3, 0.0]]]
    options = {"statement": "stacked", "step": "theory", "steps": 200}
    return _named("stacked-stationary", [[[1.0]], [[2.0]]], y, weights, note, **options)


def narrow_head(kernel: str, seed: int) -> Named:
    """d < D_y: one head of width 1 cannot reach the second output; the gradient is 0 at f = 1/2."""
    zero = np.zeros((1, 1, 1))
    weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": [[[1.0, 0.0]]]}
    note = "d = 1 < D_y = 2: sigma_min(W_O,h) = 0, gradient descent starts at a stationary point"
    return _named("narrow-head", [[[1.0]]], [[[0.0, 1.0]]], weights, note, step="0.1", steps=50)


def too_few_heads(kernel: str, seed: int) -> Named:
    """H D < N n: one column cannot span two rows, sigma_{Nn}(B) = 0 and the loss stays at 1."""
    zero = np.zeros((1, 1, 1))
    weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": [[[1.0]]]}
    note = "H D = 1 < N n = 2: the labels are orthogonal to everything B can reach"
    return _named(
        "too-few-heads", [[[1.0]], [[-1.0]]], [[1.0], [1.0]], weights, note, step="0.1", steps=50
    )


NAMED: dict[str, Callable[[str, int], Named]] = {
    "stacked-witness": stacked_witness,
    "stacked-aligned": stacked_aligned,
    "stacked-stationary": stacked_stationary,
    "narrow-head": narrow_head,
    "too-few-heads": too_few_heads,
}


def named_problem(name: str, kernel: str, seed: int) -> Named:
    """The named problem, or the witness stored in a .npz file.

    Args:
        name: A key of `NAMED`, or a path that ends in .npz.
        kernel: Attention kernel; some problems depend on it.
        seed: Seed of those that draw.

    Returns:
        Problem, weights and suggested options.

    Raises:
        InputError: Unknown name or unreadable file.

    Example:
        >>> named_problem("stacked-witness", "softmax", 0).problem.N
        1
    """
    if name in NAMED:
        return NAMED[name](kernel, seed)
    if str(name).endswith(".npz"):
        arrays = read_arrays(Path(name), ("X", "y", "W_Q", "W_K", "W_V", "W_O"), "problem")
        weights = {block: arrays[block] for block in ("W_Q", "W_K", "W_V", "W_O")}
        stem = Path(name).stem
        return Named(
            Problem.from_arrays(arrays["X"], arrays["y"], name=stem),
            Parameters.from_arrays(weights),
            {},
        )
    raise InputError(
        "problem", name, f"choose one of {', '.join(NAMED)}, or give a .npz with data and weights"
    )
