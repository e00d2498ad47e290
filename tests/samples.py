"""Random problems and weights for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gdconv.data.problem import Problem
from gdconv.descent.motion import Motion
from gdconv.descent.plan import Plan
from gdconv.models.multihead.attention_kernels import kernel_named
from gdconv.models.multihead.model import MultiHeadRegression
from gdconv.models.multihead.parameters import Parameters

KERNELS = ("softmax", "gaussian")

shapes = st.tuples(
    st.integers(1, 3),  # N
    st.integers(1, 4),  # n
    st.integers(1, 6),  # D
    st.integers(1, 4),  # d
    st.integers(1, 3),  # H
    st.integers(1, 2),  # D_y
)


def draw(
    shape: tuple[int, ...], seed: int, scale: float = 1.0, runs: int = 1
) -> tuple[Problem, Parameters]:
    """Gaussian data and weights of shape (N, n, D, d, H, D_y), R = runs."""
    N, n, D, d, H, D_y = shape
    rng = np.random.default_rng(seed)
    problem = Problem.from_arrays(
        rng.standard_normal((runs, N, n, D)), rng.standard_normal((runs, N, n, D_y))
    )
    weights = {b: scale * rng.standard_normal((runs, H, D, d)) for b in ("W_Q", "W_K", "W_V")}
    return problem, Parameters.from_arrays({
        **weights,
        "W_O": rng.standard_normal((runs, H, d, D_y)),
    })


def model(kernel: str) -> MultiHeadRegression:
    """The model with that kernel."""
    return MultiHeadRegression(kernel_named(kernel))


def motion(problem: Problem, params: Any, eta: np.ndarray, trained: tuple[str, ...]) -> Motion:
    """Gradient descent at work on these weights."""
    none = np.zeros(len(eta))
    plan = Plan(eta, np.ones(len(eta), int), [{} for _ in eta], none, none, trained=trained)
    return Motion(plan, problem, params)
