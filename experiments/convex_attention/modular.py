"""Modular division with one- and two-layer networks: steps to fit and to generalise.

Symbols a, b and a mark; per layer, with width D:

    x <- x + attention(x),   x <- x + relu(x W_1) W_2

and the last token is read by a linear layer. No norms. Attention:

- standard: softmax(q k / sqrt d) per head;
- simplex: row-stochastic matrices shared by all samples, one per head (softmax of free numbers);
- convex: the heads' products in their convex form, row q is sum_k x_k Z_qk with Z_qk (D x D) and
  the penalty lambda sum |columns of Z_qk|, taken as a proximal step after each step of Adam.

Embedding and feed-forward blocks are trained, so **none of these problems is convex as a whole**;
`fixed` solves what is: tokens that are not trained, with and without fixed gates.
"""

from __future__ import annotations

import time
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.tasks.modular import Questions, division_task
from gdconv.convex.dual import beta_max
from gdconv.convex.gated import gate_patterns, gated_tokens
from gdconv.convex.group_lasso import Program
from gdconv.convex.solvers.fast import solve

KINDS = ("standard", "simplex", "convex")
LEVEL = 0.99
"""Accuracy that counts as fitted (training) and as generalised (test)."""
EVERY = 10
"""Steps between two evaluations."""
WARMUP = 10


def _draw(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, device="cpu") / sqrt(shape[-2]))


class Mixing(nn.Module):
    """Attention of one of the three kinds.

    Args:
        kind: One of KINDS.
        D: Width.
        H: Heads (standard and simplex).
        n: Tokens.
        last: Only the last token asks.

    Example:
        >>> tuple(Mixing("convex", 8, 2, 3, last=True)(torch.zeros(5, 3, 8)).shape)
        (5, 1, 8)
    """

    def __init__(self, kind: str, D: int, H: int, n: int, *, last: bool) -> None:
        super().__init__()
        self.kind, self.last = kind, last
        rows = 1 if last else n
        if kind == "convex":
            self.Z = nn.Parameter(torch.randn(rows, n, D, D, device="cpu") / sqrt(n * D))
            return
        self.H = H
        self.W_V, self.W_O = _draw(D, D), _draw(D, D)
        if kind == "standard":
            self.W_Q, self.W_K = _draw(D, D), _draw(D, D)
        else:
            self.free = nn.Parameter(0.1 * torch.randn(rows, n, H, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the asking tokens."""
        N, n, D = x.shape
        if self.kind == "convex":
            made: Tensor = x.reshape(N, n * D) @ self.Z.permute(1, 2, 0, 3).reshape(n * D, -1)
            return made.view(N, -1, D)
        v = (x @ self.W_V).view(N, n, self.H, -1)
        if self.kind == "standard":  # products and sums: many 3 x 3 matrix products are slow
            q = ((x[:, -1:] if self.last else x) @ self.W_Q).view(N, -1, 1, *v.shape[2:])
            k = (x @ self.W_K).view(N, 1, *v.shape[1:])
            A = ((q * k).sum(-1) / sqrt(v.shape[-1])).softmax(2)
        else:
            A = self.free.softmax(1)[None]
        mixed = (A.unsqueeze(-1) * v.unsqueeze(1)).sum(2)
        return mixed.reshape(N, -1, D) @ self.W_O


class Network(nn.Module):
    """The network of the module's docstring.

    Args:
        kind: One of KINDS.
        layers: Layers.
        p: Prime.
        sizes: D, H and the hidden width of the feed-forward block.

    Example:
        >>> tuple(Network("simplex", 2, 5, (8, 2, 16))(torch.zeros(4, 3, dtype=torch.long)).shape)
        (4, 5)
    """

    def __init__(self, kind: str, layers: int, p: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        D, H, hidden = sizes
        self.embedding = nn.Parameter(torch.randn(p + 1, D, device="cpu") / sqrt(D))
        self.positions = nn.Parameter(torch.randn(3, D, device="cpu") / sqrt(D))
        self.mixing = nn.ModuleList(
            Mixing(kind, D, H, 3, last=layer == layers - 1) for layer in range(layers)
        )
        self.W_1 = nn.ParameterList([_draw(D, hidden) for _ in range(layers)])
        self.W_2 = nn.ParameterList([_draw(hidden, D) for _ in range(layers)])
        self.answers = _draw(D, p)

    def forward(self, X: Tensor) -> Tensor:
        """Scores of the p answers."""
        x = self.embedding[X] + self.positions
        for mixing, first, second in zip(self.mixing, self.W_1, self.W_2, strict=True):
            mixed = mixing(x)
            x = x[:, -mixed.shape[1] :] + mixed
            x = x + torch.relu(x @ first) @ second
        made: Tensor = x[:, -1] @ self.answers
        return made


def shrink(Z: Tensor, t: float) -> None:
    """Shorten every column of every Z_qk by t, in place: the proximal step of t sum |columns|.

    Args:
        Z: Weights (q, k, D, D), columns along the third axis.
        t: Step times lambda.

    Example:
        >>> Z = torch.tensor([[[[3.0, 0.1], [4.0, 0.0]]]])
        >>> shrink(Z, 1.0)
        >>> [[round(z, 4) for z in row] for row in Z[0, 0].tolist()]
        [[2.4, 0.0], [3.2, 0.0]]
    """
    sizes = Z.norm(dim=2, keepdim=True).clamp_min(1e-12)
    Z.mul_((1.0 - t / sizes).clamp_min(0.0))


def _tensors(part: Questions) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.X), torch.from_numpy(part.y)


def train(
    kind: str, layers: int, p: int, seed: int, sizes: tuple[int, int, int],
    options: dict[str, float], steps: int,
) -> dict[str, Any]:  # fmt: skip
    """Full-batch AdamW until the test set is answered, or for `steps` steps.

    Args:
        kind: One of KINDS.
        layers: Layers.
        p: Prime.
        seed: Of the split and the weights; the split is the same for all kinds.
        sizes: D, H, hidden width.
        options: rate, decay (AdamW's, of all weights but Z), penalty (lambda of Z) and, if given,
            decay_of_Z.
        steps: Most steps.

    Returns:
        fit and generalise (first evaluation at LEVEL, None if not reached), last step, seconds,
        columns (share of columns of Z that are zero) and rows step, train, test, loss.
    """
    train_set, test_set = division_task(p, 0.5, seed)
    (X, y), (X_test, y_test) = _tensors(train_set), _tensors(test_set)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network(kind, layers, p, sizes)
    free = [w for name, w in net.named_parameters() if name.endswith(".Z")]
    rest = [w for name, w in net.named_parameters() if not name.endswith(".Z")]
    groups = [{"params": rest, "weight_decay": options["decay"]}]
    groups += [{"params": free, "weight_decay": options.get("decay_of_Z", 0.0)}] if free else []
    optimiser = torch.optim.AdamW(groups, lr=options["rate"], betas=(0.9, 0.98))
    reached: dict[str, int | None] = {"fit": None, "generalise": None}
    rows, begun = [], time.perf_counter()
    for step in range(steps + 1):
        rate = options["rate"] * min(1.0, (step + 1) / WARMUP)
        for group in optimiser.param_groups:
            group["lr"] = rate
        scores = net(X)
        loss = torch.nn.functional.cross_entropy(scores, y)
        if step % EVERY == 0:
            with torch.no_grad():
                shares = [_right(scores, y), _right(net(X_test), y_test)]
            rows.append([step, *shares, float(loss.detach())])
            for name, share in zip(reached, shares, strict=True):
                if reached[name] is None and share >= LEVEL:
                    reached[name] = step
            if reached["generalise"] is not None and reached["fit"] is not None:
                break
        optimiser.zero_grad()
        loss.backward()
        with torch.device(loss.device):  # Adam's count of steps begins on the default device
            optimiser.step()
        with torch.no_grad():
            for Z in free:
                shrink(Z, rate * options["penalty"])
    zero = float(np.mean([float((Z.norm(dim=2) == 0).float().mean()) for Z in free] or [0.0]))
    seconds = time.perf_counter() - begun
    return {**reached, "last": rows[-1][0], "seconds": seconds, "columns": zero, "rows": rows}


def _right(scores: Tensor, y: Tensor) -> float:
    return float((scores.argmax(1) == y).float().mean())


def fixed(p: int, gates: int, seed: int, decays: tuple[float, ...]) -> list[dict[str, Any]]:
    """Programs that are convex: one-hot tokens a and b, squared loss to the one-hot answer.

    Args:
        p: Prime.
        gates: Fixed random gates (Gaussian); 0 for plain attention, which is a sum f(a) + g(b).
        seed: Of split and gates.
        decays: beta over the largest useful one.

    Returns:
        Per decay: gates, patterns, decay, train and test accuracy, gap (certified, relative).
    """
    parts = division_task(p, 0.5, seed)
    eye = np.eye(p)
    tokens = [np.stack([eye[part.X[:, 0]], eye[part.X[:, 1]]], 1) for part in parts]
    patterns = np.zeros((0, len(parts[0])), bool)
    if gates:
        rng = np.random.default_rng([19, seed])
        U = rng.standard_normal((gates, 2)), rng.standard_normal((gates, p))
        both = gate_patterns(np.concatenate(tokens), *U)
        cut = len(parts[0])
        patterns = both[:, :cut]
        tokens = [gated_tokens(tokens[0], patterns), gated_tokens(tokens[1], both[:, cut:])]
    Y = eye[parts[0].y] - 1.0 / p
    program = Program.of(tokens[0], Y, 1.0)
    top, rows, Z = beta_max(program).lo, [], None
    for decay in sorted(decays, reverse=True):
        found = solve(program.with_beta(decay * top), 1e-4, Z)
        Z = found.Z
        shares = [
            float((_scores(A, Z).argmax(1) == part.y).mean())
            for A, part in zip(tokens, parts, strict=True)
        ]
        rows.append({
            "gates": gates, "patterns": len(patterns), "decay": decay, "train": shares[0],
            "test": shares[1], "gap": found.certificate.relative_gap,
        })  # fmt: skip
    return rows


def _scores(A: np.ndarray, Z: np.ndarray) -> np.ndarray:
    return np.asarray(A.reshape(len(A), -1) @ Z.reshape(-1, Z.shape[-1]))
