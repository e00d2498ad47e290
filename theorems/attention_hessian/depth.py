"""Hessians of deep networks against the scale of their input: perceptrons and linear attention.

    perceptron         Z_0 = X,  Z_k = phi(Z_{k-1} W_k),  the last layer without phi
    linear attention   Z_0 = X,  Z_k = Z_{k-1} W_Q W_K^T Z_{k-1}^T Z_{k-1} W_V / sqrt(d), no skips

The output of the first is homogeneous of degree 1 in X (phi = identity, ReLU), that of the second
of degree 3^m. Norms are taken by automatic differentiation, all scales at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gdconv.support.errors import InputError

from .autograd import split_hessian

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"linear": lambda t: t, "relu": torch.relu}
"""Activations that keep the output homogeneous in the input."""


@dataclass(frozen=True)
class DeepNet:
    """A network with its data.

    Attributes:
        kind: "attention" (linear attention), "linear" or "relu" (perceptrons).
        X: Tokens (L, D).
        Y: Targets (L, D).
        weights: Weights by name, in the order of the parameter vector.
        layers: Layer of each weight, counted from 1.
    """

    kind: str
    X: Float[Tensor, "L D"]
    Y: Float[Tensor, "L D"]
    weights: dict[str, Tensor]
    layers: tuple[int, ...]

    @property
    def depth(self) -> int:
        """m, the number of layers."""
        return max(self.layers)

    @property
    def c(self) -> float:
        """2 / (L D): the loss is the mean square."""
        return 2.0 / self.Y.numel()

    def output(self, theta: Float[Tensor, " P"], X: Float[Tensor, "L D"]) -> Float[Tensor, "L D"]:
        """The last Z.

        Args:
            theta: All weights as one vector.
            X: Tokens.

        Returns:
            F.
        """
        pieces = theta.split([w.numel() for w in self.weights.values()])
        w = [p.reshape(v.shape) for p, v in zip(pieces, self.weights.values(), strict=True)]
        Z = X
        for k in range(self.depth):
            if self.kind == "attention":
                Q, K, V = w[3 * k : 3 * k + 3]
                Z = (Z @ Q) @ (Z @ K).mT @ (Z @ V) / Q.shape[1] ** 0.5
            else:
                last = k == self.depth - 1
                Z = Z @ w[k] if last else ACTIVATIONS[self.kind](Z @ w[k])
        return Z

    def norms(self, scales: Float[Tensor, " S"]) -> dict[tuple[str, str, str], Tensor]:
        """Frobenius norms of every block with X multiplied by each scale.

        Args:
            scales: Factors of X.

        Returns:
            Norms (S) by (part, row, column), rows not after columns.
        """
        theta = torch.cat([w.flatten() for w in self.weights.values()])

        def parts(X: Tensor) -> dict[str, Tensor]:
            return split_hessian(lambda t: self.output(t, X), theta, self.Y, self.c)

        found = torch.func.vmap(parts)(scales[:, None, None] * self.X)
        names, sizes = list(self.weights), [w.numel() for w in self.weights.values()]
        made = {}
        for part, H in found.items():
            rows = H.split(sizes, 1)
            for i, row in enumerate(names):
                blocks = rows[i].split(sizes, 2)
                for j in range(i, len(names)):
                    size = blocks[j].abs().amax((1, 2)).clamp_min(1e-300)
                    scaled = blocks[j] / size[:, None, None]  # squares of s^54 underflow
                    made[part, row, names[j]] = size * torch.linalg.matrix_norm(scaled)
                    made[part, row, names[j]][~blocks[j].flatten(1).any(1)] = 0.0
        return made


def deep_net(kind: str, depth: int, sizes: tuple[int, int, int], seed: int) -> DeepNet:
    """A drawn network: X, Y standard normal, weights with variance 1/D.

    Args:
        kind: "attention", "linear" or "relu".
        depth: Number of layers.
        sizes: (L, D, d); d is not used by perceptrons.
        seed: Of the draw.

    Returns:
        The network.

    Raises:
        InputError: Unknown kind or depth.

    Example:
        >>> net = deep_net("attention", 2, (4, 3, 2), 0)
        >>> list(net.weights), net.depth
        (['Q1', 'K1', 'V1', 'Q2', 'K2', 'V2'], 2)
        >>> norms = net.norms(torch.tensor([0.01, 0.02], dtype=torch.float64))
        >>> low, high = norms["outer", "Q2", "Q2"]
        >>> round(float(torch.log2(high / low)), 6)
        18.0
    """
    if kind not in ("attention", *ACTIVATIONS):
        raise InputError("kind", kind, "choose attention, linear or relu")
    if depth < 1:
        raise InputError("depth", depth, "give a whole number of at least 1")
    L, D, d = sizes
    draw = torch.Generator("cpu").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64, device="cpu")

    X, Y = normal(L, D), normal(L, D)
    shapes = {"Q": (D, d), "K": (D, d), "V": (D, D)} if kind == "attention" else {"W": (D, D)}
    names = [(name, k, shape) for k in range(1, depth + 1) for name, shape in shapes.items()]
    weights = {f"{name}{k}": normal(*shape) / D**0.5 for name, k, shape in names}
    return DeepNet(kind, X, Y, weights, tuple(k for _, k, _ in names))
