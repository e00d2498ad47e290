"""Random problems and weights of the shallow encoder for the tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gdconv.data.problem import Problem
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import EncoderParameters

shapes = st.tuples(
    st.integers(1, 4),  # N
    st.integers(1, 4),  # n
    st.integers(1, 6),  # D
    st.integers(1, 9),  # d_m
)


def case(
    shape: tuple[int, ...], activation: str, seed: int, runs: int = 1
) -> tuple[ShallowEncoder, Problem, EncoderParameters]:
    """Gaussian data and weights of shape (N, n, D, d_m), R = runs; random factors."""
    N, n, D, d_m = shape
    rng = np.random.default_rng(seed)
    tau_0, tau_1, loss_scale = rng.uniform(0.1, 2.0, 3)
    problem = Problem.per_sample(
        rng.standard_normal((runs, N, n, D)), rng.standard_normal((runs, N))
    )
    weights = {b: rng.standard_normal((runs, d_m, D)) / D**0.5 for b in ("W_Q", "W_K", "W_V")}
    params = EncoderParameters.from_arrays(weights | {"w_O": rng.standard_normal((runs, d_m))})
    return ShallowEncoder(tau_0, tau_1, loss_scale, activation), problem, params
