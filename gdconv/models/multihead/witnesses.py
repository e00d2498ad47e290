"""Witnesses and traps of the theory: data and weights fixed exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gdconv.data.problem import Problem
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.initialization import spread_scores
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import Parameters
from gdconv.models.named import Named
from gdconv.rigor.lapack import singular_values, svd
from gdconv.support.errors import InputError

STACKED = {"statement": "stacked", "step": "theory"}
STILL = {"step": "0.1", "steps": 50}
TRAP = {"step": "0.1", "until_loss": 1e-25}


def _named(
    name: str,
    X: Any,
    y: Any,
    weights: dict[str, Any],
    note: str,
    options: dict[str, dict[str, Any]],
) -> Named:
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
    return _named("stacked-witness", [[[1.0]]], [[1.0]], weights, note, {"full-gd": options})


def stacked_aligned(kernel: str, seed: int) -> Named:
    """R1: a generic lazy problem, four equal heads, labels along the slowest direction of B_0."""
    X = np.random.default_rng([seed, 2]).standard_normal((2, 2, 8))
    blank = Problem.from_arrays(X, np.zeros((2, 2)))
    model = MultiHeadRegression(kernel_named(kernel))

    def features(params: Parameters) -> np.ndarray:
        return model.features(blank, model.forward(blank, params))[0].numpy()

    params = spread_scores((4, 8, 4, 1), seed, lambda p: float(singular_values(features(p))[-1]))
    params = replace(params, W_O=1e3 * params.W_O)
    slowest = svd(features(params))[0][:, -1].reshape(2, 2)
    note = "recipe R1: W_V = 0, equal heads, labels = the left singular vector of B_0 at sigma_min"
    weights = {name: W[0] for name, W in params.numpy().items()}
    return _named("stacked-aligned", X, slowest, weights, note, {"full-gd": STACKED})


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
    return _named("stacked-stationary", [[[1.0]], [[2.0]]], y, weights, note, {"full-gd": options})


def narrow_head(kernel: str, seed: int) -> Named:
    """d < D_y: one head of width 1 cannot reach the second output; the gradient is 0 at f = 1/2."""
    zero = np.zeros((1, 1, 1))
    weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": [[[1.0, 0.0]]]}
    note = "d = 1 < D_y = 2: sigma_min(W_O,h) = 0, gradient descent starts at a stationary point"
    return _named("narrow-head", [[[1.0]]], [[[0.0, 1.0]]], weights, note, {"*": STILL})


def too_few_heads(kernel: str, seed: int) -> Named:
    """H D < N n: one column cannot span two rows, sigma_{Nn}(B) = 0 and the loss stays at 1."""
    zero = np.zeros((1, 1, 1))
    weights = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": [[[1.0]]]}
    note = "H D = 1 < N n = 2: the labels are orthogonal to everything B can reach"
    return _named("too-few-heads", [[[1.0]], [[-1.0]]], [[1.0], [1.0]], weights, note, {"*": STILL})


def printed_stationarity(kernel: str, seed: int) -> Named:
    """W4: two tokens, one head of width 1, on which the printed coefficient eta is too large.

    X = I_2, W_K = (1, -1)^T, W_V W_O = (1, 0)^T, y = 1/2, W_Q = (1/2, 1/2)^T. Softmax: with step
    eta the ratio (f_0 - f_1) / (eta |g_0|^2) is 0.99965, 0.99639, 0.98045 at eta = 0.01, 0.1, 0.5.

    Args:
        kernel: Attention kernel; the ratios are those of softmax.
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.
    """
    weights = {
        "W_Q": [[[0.5], [0.5]]],
        "W_K": [[[1.0], [-1.0]]],
        "W_V": [[[1.0], [0.0]]],
        "W_O": [[[1.0]]],
    }
    note = "witness W4: the curvature along the step is positive, so the loss falls by less"
    options = {"statement": "printed-stationarity", "step": "theory", "steps": 50}
    return _named(
        "printed-stationarity", [np.eye(2)], [[0.5, 0.5]], weights, note, {"query-gd": options}
    )


def _trap(name: str, queries: list[float], keys: list[float], values: list[float], y: float,
          note: str, steps: int) -> Named:  # fmt: skip
    """Three one-hot tokens, one head of width 1: every row of W_Q is the query of its token."""
    weights = {
        "W_Q": [[[q] for q in queries]],
        "W_K": [[[k] for k in keys]],
        "W_V": [[[v] for v in values]],
        "W_O": [[[1.0]]],
    }
    options: dict[str, dict[str, Any]] = {
        "*": {**TRAP, "steps": 20_000},
        "query-gd": {"statement": "run", "steps": steps},
        "full-gd": {"statement": "run"},
    }
    return _named(name, [np.eye(3)], [[y, y, y]], weights, note, options)


def softmax_trap(kernel: str, seed: int) -> Named:
    """Queries that run to minus infinity: softmax on W_Q alone tends to loss 1/2 per row.

    Keys (-1, 0, 1), values (1, 0, 2), y = 2, q = (-1.2, -2, -3); inf f = 0. The Gaussian kernel and
    training of all blocks escape.

    Args:
        kernel: Attention kernel.
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.
    """
    note = "softmax trap: every query below ln((sqrt 3 - 1)/2) runs to minus infinity under softmax"
    return _trap(
        "softmax-trap", [-1.2, -2.0, -3.0], [-1.0, 0.0, 1.0], [1.0, 0.0, 2.0], 2.0, note, 60_000
    )


def gaussian_trap(kernel: str, seed: int) -> Named:
    """The counter-trap: a far key that the Gaussian kernel never reaches.

    Keys (-3, 0, 3), values (1, 0, 2), y = 2, every query at -3.2: it settles near the first key, a
    local maximum of the output, with loss 1/2 per row.

    Args:
        kernel: Attention kernel.
        seed: Not used: nothing is drawn.

    Returns:
        Problem, weights and suggested options.
    """
    note = "Gaussian counter-trap: queries beside the first key do not feel the last one"
    return _trap("gaussian-trap", [-3.2] * 3, [-3.0, 0.0, 3.0], [1.0, 0.0, 2.0], 2.0, note, 20_000)
