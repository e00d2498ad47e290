"""Weights of the shallow encoder and their initialization.

Shapes and names as in gdconv.models.encoder.model. Source: Wu, Liu, Chrysos, Cevher 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.data.problem import real_array
from gdconv.models.weights import Weights
from gdconv.support.errors import InputError

BLOCKS = ("W_Q", "W_K", "W_V", "w_O")
"""The trainable blocks, in the order used everywhere."""

RULES = ("lecun", "he", "ntk", "zero-output")
"""Initial weights that `initialize_encoder` draws."""


@dataclass(frozen=True)
class EncoderParameters(Weights):
    """Weights of the encoder with a leading replica axis.

    Attributes:
        W_Q: Query weights (R, d_m, D).
        W_K: Key weights (R, d_m, D).
        W_V: Value weights (R, d_m, D).
        w_O: Output weights (R, d_m).

    Example:
        >>> z = torch.zeros(1, 8, 3, dtype=torch.float64)
        >>> EncoderParameters(z, z, z, z[..., 0]).d_m
        8
    """

    W_Q: Float[Tensor, "R m D"]
    W_K: Float[Tensor, "R m D"]
    W_V: Float[Tensor, "R m D"]
    w_O: Float[Tensor, "R m"]

    def blocks(self) -> dict[str, Tensor]:
        """The blocks by name; asked for many times a step, without a look at the fields."""
        return {"W_Q": self.W_Q, "W_K": self.W_K, "W_V": self.W_V, "w_O": self.w_O}

    @property
    def d_m(self) -> int:
        """Width."""
        return self.W_Q.shape[1]

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> EncoderParameters:
        """Weights from numpy arrays named W_Q, W_K, W_V, w_O, with or without the replica axis.

        Args:
            arrays: W_Q, W_K, W_V of shape (d_m, D) and w_O of shape (d_m,), or all with R before.

        Returns:
            The weights in float64.

        Raises:
            InputError: A block is missing, empty, no finite real numbers, or of a wrong shape.

        Example:
            >>> EncoderParameters.from_arrays({"W_Q": np.ones((0, 2))})
            Traceback (most recent call last):
            gdconv.support.errors.InputError: W_Q = array of shape (0, 2): give at least one entry
            along every axis.
        """
        made = {}
        for name in BLOCKS:
            if name not in arrays:
                raise InputError(name, "missing", "give all of W_Q, W_K, W_V and w_O")
            array, _ = real_array(name, arrays[name])
            shown, axes = f"array of shape {array.shape}", 1 if name == "w_O" else 2
            if array.ndim not in (axes, axes + 1):
                wanted = "(d_m,)" if name == "w_O" else "(d_m, D)"
                raise InputError(name, shown, f"give shape {wanted}, with R before or not")
            if not array.size:
                raise InputError(name, shown, "give at least one entry along every axis")
            made[name] = torch.from_numpy(array if array.ndim > axes else array[None])
        shape = made["W_Q"].shape
        if any(made[b].shape != shape for b in BLOCKS[:3]) or made["w_O"].shape != shape[:2]:
            raise InputError(
                "weights",
                {k: tuple(v.shape) for k, v in made.items()},
                "give W_Q, W_K, W_V of one shape (d_m, D) and w_O of shape (d_m,)",
            )
        return EncoderParameters(**made)


def scaling(name: str, d_m: int) -> float:
    """tau_0: 1/d_m for "linear", 1/sqrt(d_m) for "sqrt".

    Args:
        name: linear or sqrt.
        d_m: Width.

    Returns:
        The factor of the scores.

    Raises:
        InputError: Unknown name.

    Example:
        >>> scaling("linear", 64), scaling("sqrt", 64)
        (0.015625, 0.125)
    """
    factors = {"linear": 1 / d_m, "sqrt": 1 / sqrt(d_m)}
    if name not in factors:
        raise InputError("scaling", name, "choose one of linear, sqrt")
    return factors[name]


def default_tau_1(rule: str, d_m: int) -> float:
    """tau_1 that goes with an initialization: d_m^(-1/2) for ntk, else 1.

    Args:
        rule: One of `RULES`.
        d_m: Width.

    Returns:
        The factor of the output.

    Raises:
        InputError: Unknown rule.

    Example:
        >>> default_tau_1("ntk", 16), default_tau_1("he", 16)
        (0.25, 1.0)
    """
    if rule not in RULES:
        raise InputError("init", rule, f"choose one of {', '.join(RULES)}")
    return 1 / sqrt(d_m) if rule == "ntk" else 1.0


def initialize_encoder(rule: str, shape: tuple[int, int], seed: int) -> EncoderParameters:
    """Draw weights by rule.

    Variances of W_Q, W_K, W_V and of w_O: lecun 1/D and 1/d_m, he 2/D and 2/d_m, ntk 1 and 1,
    zero-output as lecun with w_O = 0, so that f = 0.

    Args:
        rule: One of `RULES`.
        shape: (d_m, D).
        seed: Seed of the generator; data of the same seed use another stream.

    Returns:
        Weights with R = 1.

    Raises:
        InputError: Unknown rule.

    Example:
        >>> initialize_encoder("lecun", (16, 4), seed=0).w_O.shape
        torch.Size([1, 16])
    """
    d_m, D = shape
    deviations = {
        "lecun": (sqrt(1 / D), sqrt(1 / d_m)),
        "he": (sqrt(2 / D), sqrt(2 / d_m)),
        "ntk": (1.0, 1.0),
        "zero-output": (sqrt(1 / D), 0.0),
    }
    if rule not in deviations:
        raise InputError("init", rule, f"choose one of {', '.join(RULES)}")
    rng = np.random.default_rng([seed, 1])
    s, s_O = deviations[rule]
    made = {b: s * rng.standard_normal((d_m, D)) for b in BLOCKS[:3]}
    return EncoderParameters.from_arrays(made | {"w_O": s_O * rng.standard_normal(d_m)})
