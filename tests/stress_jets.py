"""Stress of the jet calculus: gradient ascent for the derivatives that its bounds must cover.

    python tests/stress_jets.py                     about 4500 searches
    python tests/stress_jets.py --starts 2

Each search moves a point of the ball and a direction together (Adam on both) to make |DF[u]| or
|D2F[u,u]| large, with exact forward derivatives. The greatest measured/bound must stay below 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gdconv.models.jets.calculus import Calculus
from gdconv.models.jets.graph import Graph, known_layers

RADII = (1e-6, 0.1, 0.5)


class Residual(nn.Module):
    """h + act(h A) B."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.A, self.B, self.act = nn.Linear(width, width), nn.Linear(width, width), act

    def forward(self, h: Tensor) -> Tensor:
        return h + self.B(self.act(self.A(h)))


class Attention(nn.Module):
    """Softmax attention with optional heads."""

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, h: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.q(h)), split(self.k(h)), split(self.v(h))
        S = torch.softmax(q @ k.transpose(-2, -1) / (self.width // self.heads) ** 0.5, dim=-1)
        return (S @ v).transpose(1, 2).reshape(h.shape[0], h.shape[1], self.width)


class Block(nn.Module):
    """Transformer block with a head that averages tokens; layer norms first, or none."""

    def __init__(self, width: int, norm: bool, act: nn.Module, heads: int = 1) -> None:
        super().__init__()
        self.att, self.act = Attention(width, heads), act
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.one = nn.LayerNorm(width) if norm else nn.Identity()
        self.two = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.att(self.one(x))
        h = h + self.down(self.act(self.up(self.two(h))))
        return self.head(h.mean(dim=1))


class Gated(nn.Module):
    """RMS norm with scale, then a gated unit with raw weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-3)
        self.A, self.B = (nn.Parameter(torch.empty(width, width)) for _ in range(2))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return self.out((h @ self.A) * torch.sigmoid(h @ self.B))


def small_convolution() -> nn.Module:
    """Two convolutions and a softplus."""
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv1d(3, 2, 2), nn.Softplus(),
        nn.Flatten(), nn.Linear(4, 1),
    )  # fmt: skip


class Of(nn.Module):
    """A module from a function of (self, x) and parameters of these shapes."""

    def __init__(self, function: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def heads(x: Tensor) -> Tensor:
    """(N, 3, 4) as (N, 3, 2, 2)."""
    return x.view(x.shape[0], 3, 2, 2)


WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2-layer tanh": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), (4, 3)
    ),
    "3-layer GELU": (
        lambda: nn.Sequential(
            nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU("tanh"), nn.Linear(6, 1)
        ), (4, 3),
    ),
    "softplus": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 2)), (4, 3)
    ),
    "residual SiLU": (
        lambda: nn.Sequential(Residual(4, nn.SiLU()), Residual(4, nn.SiLU()), nn.Linear(4, 1)),
        (4, 4),
    ),
    "attention + FFN": (lambda: Block(4, False, nn.Tanh()), (3, 3, 4)),
    "pre-LN block": (lambda: Block(4, True, nn.GELU(), 2), (3, 3, 4)),
    "gated RMS": (lambda: Gated(4), (3, 4)),
    "convolution": (small_convolution, (3, 2, 6)),
}  # fmt: skip


TOKENS = (2, 3, 4)
RULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    name: (make, TOKENS)
    for name, make in {
        "outer gate": lambda: Of(
            lambda m, x: (m.a * m.b) * (x @ m.W), a=(3, 1), b=(1, 4), W=(4, 4)
        ),
        "row gate": lambda: Of(
            lambda m, x: torch.sigmoid(x @ m.w) * (x @ m.W), w=(4, 1), W=(4, 4)
        ),
        "column gate": lambda: Of(
            lambda m, x: torch.sigmoid((x @ m.W).mean(1, keepdim=True)) * (x @ m.V),
            W=(4, 4), V=(4, 4),
        ),
        "column scale": lambda: Of(lambda m, x: torch.tanh(x @ m.W) * m.s, W=(4, 4), s=(4,)),
        "scalar": lambda: Of(lambda m, x: m.s * torch.tanh(x @ m.W), s=(1,), W=(4, 4)),
        "cube": lambda: Of(lambda m, x: (x @ m.W) ** 2 * (x @ m.W), W=(4, 4)),
        "gram": lambda: Of(lambda m, x: x @ m.W @ m.W.T, W=(4, 4)),
        "one matrix for all heads": lambda: Of(lambda m, x: torch.sin(heads(x) @ m.W), W=(2, 2)),
        "a matrix per head": lambda: Of(lambda m, x: torch.erf(heads(x) @ m.W), W=(3, 2, 2)),
        "from the left": lambda: Of(lambda m, x: torch.tanh(m.W @ heads(x)), W=(2, 2)),
        "side by side": lambda: Of(
            lambda m, x: torch.cat([torch.tanh(x @ m.W), x @ m.W, x @ m.V], -1), W=(4, 4), V=(4, 4)
        ),
        "softmax of columns": lambda: Of(lambda m, x: torch.softmax(x @ m.W, 1), W=(4, 4)),
        "sum of squares": lambda: Of(lambda m, x: ((x @ m.W) ** 2).sum((1, 2)), W=(4, 4)),
        "biases": lambda: Of(
            lambda m, x: torch.sin(x @ m.W + m.b + m.c), W=(4, 4), b=(4,), c=(3, 1)
        ),
        "norm of two axes": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm([3, 4])),
    }.items()
}  # fmt: skip
RULES["two dimensions"] = (
    lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.SiLU(), nn.Conv2d(3, 2, 2), nn.Flatten()
    ), (2, 2, 4, 4),
)  # fmt: skip
RULES["dilated"] = (
    lambda: nn.Sequential(nn.Conv1d(2, 3, 2, dilation=2), nn.Tanh()), (2, 2, 5)
)  # fmt: skip
MODELS = WHOLE | RULES


def drawn(name: str, seed: int, scale: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A model with Gaussian weights / sqrt(fan-in) times a scale, and inputs."""
    make, shape = MODELS[name]
    rng = torch.Generator().manual_seed(seed)
    module = make().double()
    for key, p in module.named_parameters():
        fan = p[0].numel() if p.ndim > 1 else 1
        noise = torch.randn(p.shape, generator=rng, dtype=torch.float64)
        if p.ndim == 1:
            noise = 0.3 * noise + ("one" in key or "two" in key or "norm" in key) * (
                "weight" in key
            )
        p.data = scale * noise / fan**0.5
    return module, torch.randn(shape, generator=rng, dtype=torch.float64)


def measured(
    graph: Graph, params: dict[str, Tensor], X: Tensor, rho: float, order: int,
    starts: int = 4, steps: int = 40, seed: int = 0,
) -> float:  # fmt: skip
    """Greatest |D^order F[u, ...]| found on the ball, over all starts."""
    sizes = [p.numel() for p in params.values()]
    centre = torch.cat([p.detach().double().reshape(-1) for p in params.values()])

    def outputs(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        named = {n: t.view(p.shape) for (n, p), t in zip(params.items(), parts, strict=True)}
        return graph.evaluate(named, X)[graph.output].reshape(-1)

    def size(z: Tensor) -> Tensor:
        shift, u = z.chunk(2)
        u = u / u.norm()
        theta = centre + rho * shift / shift.norm().clamp_min(1.0)

        def first(t: Tensor) -> Tensor:
            return torch.func.jvp(outputs, (t,), (u,))[1]

        D = first(theta) if order == 1 else torch.func.jvp(first, (theta,), (u,))[1]
        return D.norm()

    rng = torch.Generator().manual_seed(seed)
    z = torch.randn((starts, 2 * centre.numel()), generator=rng, dtype=torch.float64)
    z[:, : centre.numel()] /= z[:, : centre.numel()].norm(dim=1, keepdim=True)
    mean, square, best = torch.zeros_like(z), torch.zeros_like(z), 0.0
    slope = torch.vmap(torch.func.grad_and_value(size))
    for t in range(1, steps + 1):
        g, value = slope(z)
        best = max(best, float(value.max()))
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g
        step = (mean / (1 - 0.9**t)) / ((square / (1 - 0.99**t)).sqrt() + 1e-12)
        z = z + 0.1 * step
    return best


def ratios(
    name: str, rho: float, seed: int, scale: float = 1.0, centred: bool = True, **how: int
) -> tuple[float, float]:
    """Measured / bound for G and M_2."""
    module, X = drawn(name, seed, scale)
    graph = known_layers(module, X)
    assert isinstance(graph, Graph), graph
    params = dict(module.named_parameters())
    M_2, G = Calculus(graph, params, X, centred).constants(rho)
    first = measured(graph, params, X, rho, 1, seed=seed, **how)
    second = measured(graph, params, X, rho, 2, seed=seed, **how)
    return float(first / np.asarray(G)), float(second / np.asarray(M_2))


def main(argv: list[str] | None = None) -> int:
    """Run the searches; 1 when a bound was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--starts", type=int, default=5, help="searches per draw, radius and order")
    args = parser.parse_args(argv)
    worst, count = 0.0, 0
    for name in MODELS:
        for rho in RADII:
            for scale in (1.0, 3.0):
                found = [
                    ratios(name, rho, seed, scale, starts=args.starts) for seed in range(args.draws)
                ]
                count += 2 * args.starts * len(found)
                G, M = max(f[0] for f in found), max(f[1] for f in found)
                worst = max(worst, G, M)
                print(
                    f"{name:16} rho {rho:<6g} scale {scale:g}: G {G:.4g}, M_2 {M:.4g}", flush=True
                )
    print(f"{count} searches, greatest {worst:.6g}")
    return 1 if not worst <= 1.0 else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
