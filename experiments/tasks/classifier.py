"""A small transformer that classifies sequences, with either attention kernel inside.

Per layer, on tokens x of width D, with H heads of width c:

    x <- x + sum_h S_h (u W_V,h) W_O,h,    u = norm(x),  S_h = kernel(u W_Q,h, u W_K,h)
    x <- x + W_2 gelu(W_1 norm(x)),        hidden width d

then a norm, the mean over tokens that are no padding, and a linear layer. S_h is that of
`gdconv.models.multihead.attention_kernels`, so Gaussian rows are not normalised; everything else is
a standard torch module.

D = 64, d = 128, H = 2 and 2 layers are the sizes of the experiments on the poster of Song et al.
2024, with d read as the hidden width of the feed-forward block and c = D/H = 32, as is usual in
this benchmark; `head_width` sets another c.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gdconv.data.draws import whole
from gdconv.models.multihead.attention_kernels import Kernel, kernel_named
from gdconv.support.errors import InputError

PADDING = 0
"""Token of a sequence that is no token; it is not attended to and not averaged."""


@dataclass(frozen=True)
class ClassifierSizes:
    """Sizes of the network.

    Attributes:
        tokens: n, longest sequence.
        symbols: Number of different tokens, 0 for tokens that are vectors.
        features: Width of such a vector, 0 for tokens that are symbols.
        classes: Number of classes.
        D: Width of a token.
        d: Hidden width of the feed-forward block.
        H: Heads.
        layers: Layers.
        head_width: c, width of a head; D / H if None.

    Raises:
        InputError: A size below 1, not one of symbols and features, or H does not divide D.

    Example:
        >>> ClassifierSizes(tokens=40, symbols=100).c
        32
    """

    tokens: int
    symbols: int = 0
    features: int = 0
    classes: int = 2
    D: int = 64
    d: int = 128
    H: int = 2
    layers: int = 2
    head_width: int | None = None

    def __post_init__(self) -> None:
        for field, least in (*_LEAST, ("symbols", 0), ("features", 0)):
            whole(field, getattr(self, field), least)
        if (self.symbols > 0) == (self.features > 0):
            raise InputError("symbols", self.symbols, "give either symbols or features above 0")
        if self.head_width is None and self.D % self.H:
            raise InputError("H", self.H, f"give a divisor of {self.D}, or a head_width")
        if self.head_width is not None and self.head_width < 1:
            raise InputError("head_width", self.head_width, "give a whole number of at least 1")

    @property
    def c(self) -> int:
        """Width of a head."""
        return self.D // self.H if self.head_width is None else self.head_width


_LEAST = (("tokens", 1), ("classes", 2), ("D", 1), ("d", 1), ("H", 1), ("layers", 1))


def attention_weights(
    kernel: Kernel,
    q: Float[Tensor, "B H n c"],
    k: Float[Tensor, "B H n c"],
    seen: Bool[Tensor, "B n"] | None = None,
) -> Float[Tensor, "B H n n"]:
    """Weights of the library's attention kernels, for batches of long sequences and with padding.

    The Gaussian exponent is expanded, q k - |q|^2/2 - |k|^2/2 about the mean key, which takes n^2
    numbers instead of n^2 c and is a matrix product; rounding can make it positive, which is cut
    off. Softmax rows are normalised over the tokens seen.

    Args:
        kernel: The kernel.
        q: Queries.
        k: Keys.
        seen: True where a key is no padding; None for all.

    Returns:
        S; columns of padding are zero.

    Example:
        >>> q = torch.randn(1, 1, 3, 4, dtype=torch.float64)
        >>> gauss = kernel_named("gaussian")
        >>> bool(torch.allclose(attention_weights(gauss, q, q), gauss.weights(q, q)))
        True
    """
    mask = None if seen is None else seen[:, None, None, :]
    if kernel.name == "softmax":
        if mask is None:
            return kernel.weights(q, k)
        scores = (q @ k.mT) / sqrt(q.shape[-1])
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
    centre = k.mean(dim=-2, keepdim=True).detach()  # the weights do not depend on it
    q, k = q - centre, k - centre
    half = 0.5 * k.square().sum(-1)
    exponent = q @ k.mT - 0.5 * q.square().sum(-1, keepdim=True) - half.unsqueeze(-2)
    S = torch.exp(exponent.clamp(max=0) / sqrt(q.shape[-1]))
    return S if mask is None else S * mask


class Attention(nn.Module):
    """Multi-head attention with one of the toolkit's kernels.

    Args:
        sizes: Sizes.
        kernel: "softmax" or "gaussian".

    Example:
        >>> layer = Attention(ClassifierSizes(tokens=5, symbols=9), "gaussian")
        >>> tuple(layer(torch.zeros(2, 5, 64)).shape)
        (2, 5, 64)
    """

    def __init__(self, sizes: ClassifierSizes, kernel: str) -> None:
        super().__init__()
        self.kernel, self.H, self.c = kernel_named(kernel), sizes.H, sizes.c
        self.queries_keys_values = nn.Linear(sizes.D, 3 * self.H * self.c)
        self.output = nn.Linear(self.H * self.c, sizes.D)

    def forward(
        self, x: Float[Tensor, "B n D"], seen: Bool[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B n D"]:
        """sum_h S_h (x W_V,h) W_O,h with biases."""
        B, n, _ = x.shape
        parts = self.queries_keys_values(x).view(B, n, 3, self.H, self.c)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        heads = attention_weights(self.kernel, q, k, seen) @ v
        made: Tensor = self.output(heads.transpose(1, 2).reshape(B, n, self.H * self.c))
        return made


class Layer(nn.Module):
    """Attention, then a feed-forward block, each added to its input; norms come first."""

    def __init__(self, sizes: ClassifierSizes, kernel: str) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(sizes.D)
        self.attention = Attention(sizes, kernel)
        self.forward_block = nn.Sequential(
            nn.LayerNorm(sizes.D),
            nn.Linear(sizes.D, sizes.d),
            nn.GELU(),
            nn.Linear(sizes.d, sizes.D),
        )

    def forward(
        self, x: Float[Tensor, "B n D"], seen: Bool[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B n D"]:
        """The two sums of the module's docstring."""
        x = x + self.attention(self.before_attention(x), seen)
        made: Tensor = x + self.forward_block(x)
        return made


class TransformerClassifier(nn.Module):
    """The network; with the same seed both kernels start from the same weights.

    Args:
        sizes: Sizes.
        kernel: "softmax" or "gaussian".
        seed: Seed of the initial weights: torch's defaults, positions normal with deviation 0.3.

    Example:
        >>> sizes = ClassifierSizes(tokens=4, symbols=10)
        >>> net = TransformerClassifier(sizes, "softmax", seed=1)
        >>> tuple(net(torch.tensor([[3, 1, 0, 0]])).shape)
        (1, 2)
    """

    def __init__(self, sizes: ClassifierSizes, kernel: str, seed: int = 0) -> None:
        super().__init__()
        self.sizes, self.kernel = sizes, kernel
        # drawn on the CPU wherever it runs later: the same seed gives the same weights
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.embedding: nn.Module = (
                nn.Embedding(sizes.symbols, sizes.D, padding_idx=PADDING)
                if sizes.symbols
                else nn.Linear(sizes.features, sizes.D)
            )
            self.positions = nn.Parameter(0.3 * torch.randn(sizes.tokens, sizes.D, device="cpu"))
            self.layers = nn.ModuleList(Layer(sizes, kernel) for _ in range(sizes.layers))
            self.norm = nn.LayerNorm(sizes.D)
            self.classes = nn.Linear(sizes.D, sizes.classes)

    def forward(self, X: Int[Tensor, "B n"] | Float[Tensor, "B n p"]) -> Float[Tensor, "B classes"]:
        """Scores of the classes.

        Args:
            X: Symbols, 0 is padding, or vectors.

        Returns:
            One score per sample and class; softmax gives probabilities.
        """
        seen = X != PADDING if X.ndim == 2 else None
        x = self.embedding(X) + self.positions[: X.shape[1]]
        for layer in self.layers:
            x = layer(x, seen)
        x = self.norm(x)
        if seen is None:
            pooled = x.mean(dim=1)
        else:
            counted = seen.unsqueeze(-1).to(x.dtype)
            pooled = (x * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        made: Tensor = self.classes(pooled)
        return made


def accuracy_and_loss(
    net: nn.Module, X: Tensor, y: Int[Tensor, " M"], batch: int | None = None
) -> tuple[float, float]:
    """Share of right answers and mean cross-entropy over a set.

    Args:
        net: The network.
        X: Inputs, first axis samples.
        y: Classes.
        batch: Samples at once; None for as many as have 2^25 attention weights, at most 256.

    Returns:
        Accuracy and loss.

    Example:
        >>> net = TransformerClassifier(ClassifierSizes(tokens=2, symbols=3), "softmax")
        >>> accuracy, loss = accuracy_and_loss(net, torch.ones(4, 2, dtype=torch.int64),
        ...     torch.zeros(4, dtype=torch.int64))
        >>> accuracy in (0.0, 1.0)
        True
    """
    batch = min(256, max(1, 2**25 // X.shape[1] ** 2)) if batch is None else batch
    right, total = 0.0, 0.0
    with torch.no_grad():
        for part in range(0, len(y), batch):
            scores: Any = net(X[part : part + batch])
            answer = y[part : part + batch]
            right += float((scores.argmax(-1) == answer).sum())
            total += float(nn.functional.cross_entropy(scores, answer, reduction="sum"))
    return right / len(y), total / len(y)
