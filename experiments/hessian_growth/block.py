"""Hessian blocks of W_Q and W_V in a one-block transformer, exactly and without forming them.

    x^ = LN(x) or x,   F_i = sum_j A_ij x^_j W_V,   z = x + F W_O,   y = z + relu(LN(z) W_in) W_out
    loss = mean cross-entropy of LN(y) W_U over the answer tokens,   A causal, softmax or linear

Behind F every token is on its own: with delta_i = dloss/dF_i and B_i = d^2 loss/dF_i^2,

    H(VV) = sum_i m_i m_i^T tensor B_i,     H(QQ) = sum_i x^_i x^_i^T tensor K^T C_i K,
    C_i = s^2 (L_i V B_i V^T L_i + diag P_i - P_i A_i^T - A_i P_i^T),   L_i = diag A_i - A_i A_i^T,

where P_ij = A_ij (delta_i v_j - mean) and s = 1/sqrt(d); for linear attention L_i is the mask and
the P terms are absent. |sum_i a_i a_i^T tensor M_i|_F^2 = sum_ij (a_i a_j)^2 tr(M_i M_j), so 16,384
weights need Gram matrices of a few hundred tokens only. The outer part takes the Gauss-Newton part
of B_i (through the logits), the functional part is the rest, as in the public code of Ormaniec,
Dangel and Singh.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

DIGITS, VOCABULARY, PLUS, EQUALS = 5, 12, 10, 11
EPSILON = 1e-5
"""Of the layer norms."""


@dataclass(frozen=True)
class Block:
    """Weights of one block.

    Attributes:
        W_Q: (D, d).
        W_K: (D, d).
        W_V: (D, d).
        W_O: (d, D).
        W_in: (D, M).
        W_out: (M, D).
        W_U: (D, vocabulary).
        kernel: "softmax" or "linear".
        layer_norm: Whether LN stands before attention, before the MLP and before W_U.
    """

    W_Q: Float[Tensor, "D d"]
    W_K: Float[Tensor, "D d"]
    W_V: Float[Tensor, "D d"]
    W_O: Float[Tensor, "d D"]
    W_in: Float[Tensor, "D M"]
    W_out: Float[Tensor, "M D"]
    W_U: Float[Tensor, "D V"]
    kernel: str = "softmax"
    layer_norm: bool = False


def draw_block(D: int, seed: int, kernel: str = "softmax", layer_norm: bool = False) -> Block:
    """A block with independent normal weights of variance 0.64 / D, d = D, an MLP of width 4 D.

    Args:
        D: Embedding dimension.
        seed: Of the weights.
        kernel: "softmax" or "linear".
        layer_norm: Pre-layer-norm.

    Returns:
        The block, float64.

    Example:
        >>> block = draw_block(4, 0)
        >>> block.W_in.shape, block.W_U.shape
        (torch.Size([4, 16]), torch.Size([4, 12]))
    """
    rng = torch.Generator("cpu").manual_seed(seed)
    shapes = [(D, D)] * 4 + [(D, 4 * D), (4 * D, D), (D, VOCABULARY)]
    std = 0.8 / D**0.5
    made = [std * torch.randn(s, generator=rng, dtype=torch.float64, device="cpu") for s in shapes]
    W_Q, W_K, W_V, W_O, W_in, W_out, W_U = made
    return Block(W_Q, W_K, W_V, W_O, W_in, W_out, W_U, kernel, layer_norm)


def addition(count: int, seed: int) -> Int[Tensor, "N 18"]:
    """Sums of two uniform five-digit numbers as tokens, such as 55003+80002=135005.

    Args:
        count: N.
        seed: Of the numbers.

    Returns:
        Tokens: digits, 10 for plus, 11 for equals.

    Example:
        >>> row = addition(1, 0)[0].tolist()
        >>> a, b, c = (int("".join(map(str, row[i:j]))) for i, j in ((0, 5), (6, 11), (12, 18)))
        >>> row[5], row[11], a + b == c
        (10, 11, True)
    """
    rng = torch.Generator("cpu").manual_seed(seed)
    terms = torch.randint(0, 10**DIGITS, (2, count), generator=rng, device="cpu")

    def digits(numbers: Tensor, places: int) -> Tensor:
        return torch.stack([numbers // 10**k % 10 for k in reversed(range(places))], dim=1)

    signs = torch.tensor([PLUS, EQUALS], device="cpu").expand(count, 2)
    parts = digits(terms[0], DIGITS), signs[:, :1], digits(terms[1], DIGITS), signs[:, 1:]
    return torch.cat((*parts, digits(terms.sum(0), DIGITS + 1)), dim=1)


def embed(tokens: Int[Tensor, "N L"], D: int, seed: int) -> Float[Tensor, "N L D"]:
    """Token plus position embeddings, all entries standard normal.

    Args:
        tokens: Tokens.
        D: Embedding dimension.
        seed: Of the embeddings.

    Returns:
        X_0, float64.
    """
    rng = torch.Generator("cpu").manual_seed(seed)
    shape = (VOCABULARY + tokens.shape[1], D)
    table = torch.randn(shape, generator=rng, dtype=torch.float64, device="cpu")
    return table[tokens] + table[VOCABULARY:]


def answers(length: int) -> slice:
    """Positions whose next token is a digit of the answer."""
    return slice(length - DIGITS - 2, length - 1)


@dataclass(frozen=True)
class _Norm:
    """Layer norm at some tokens: value u, Jacobian (symmetric), contracted second derivative."""

    z: Tensor
    on: bool
    c: Tensor = field(init=False)
    rho: Tensor = field(init=False)

    def __post_init__(self) -> None:
        c = self.z - self.z.mean(-1, keepdim=True)
        object.__setattr__(self, "c", c)
        variance = c.square().mean(-1, keepdim=True)
        object.__setattr__(self, "rho", (variance + EPSILON).sqrt())

    @property
    def u(self) -> Tensor:
        return self.c / self.rho if self.on else self.z

    def pull(self, a: Tensor) -> Tensor:
        """Jacobian times a, (T, D, k)."""
        if not self.on:
            return a
        c, rho = self.c.unsqueeze(-1), self.rho.unsqueeze(-1)
        centred = a - a.mean(-2, keepdim=True)
        return centred / rho - c * (c.mT @ a) / (c.shape[-2] * rho**3)

    def second(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Second derivative of a u, as (alpha (T), l (T, D)): alpha P + l c^T + c l^T."""
        D, c, rho = self.c.shape[-1], self.c, self.rho
        b = a - a.mean(-1, keepdim=True)
        along = (a * c).sum(-1, keepdim=True)
        left = -b / (D * rho**3) + 1.5 * along * c / (D**2 * rho**5)
        return (-along / (D * rho**3)).squeeze(-1), left

    def curved(self, a: Tensor, E: Tensor) -> Tensor:
        """E (second derivative of a u) E^T for matrices E (T, d, D) or (d, D)."""
        alpha, left = self.second(a)
        cross = (E @ left.unsqueeze(-1)) @ (E @ self.c.unsqueeze(-1)).mT
        flat = (E - E.mean(-1, keepdim=True)) @ E.mT
        return alpha[:, None, None] * flat + cross + cross.mT


@dataclass(frozen=True)
class Behind:
    """What stands behind F, token by token.

    Attributes:
        loss: The loss.
        delta: Its gradient by F (T, d).
        outer: Gauss-Newton part of B_i (T, d, d).
        functional: The rest (T, d, d); None where it is 0, since relu is piecewise linear.
    """

    loss: float
    delta: Float[Tensor, "T d"]
    outer: Float[Tensor, "T d d"]
    functional: Float[Tensor, "T d d"] | None


def _behind(
    block: Block, x: Float[Tensor, "T D"], F: Float[Tensor, "T d"], target: Int[Tensor, " T"]
) -> Behind:
    """Loss and its two derivatives by F."""
    z = x + F @ block.W_O
    first = _Norm(z, block.layer_norm)
    hidden = first.u @ block.W_in
    on = (hidden > 0).to(z.dtype)
    last = _Norm(z + (hidden * on) @ block.W_out, block.layer_norm)
    logits = last.u @ block.W_U
    T = len(logits)
    p = torch.softmax(logits, -1)
    loss = torch.nn.functional.cross_entropy(logits, target)
    slope = p.clone()
    slope[torch.arange(T, device=slope.device), target] -= 1.0
    slope /= T

    def to_z(a: Tensor) -> Tensor:
        inner = block.W_in @ (on.unsqueeze(-1) * (block.W_out @ a))
        return a + first.pull(inner)

    J = block.W_O @ to_z(last.pull(block.W_U.expand(T, -1, -1)))  # (T, d, V)
    mean = (J @ p.unsqueeze(-1)).squeeze(-1)
    spread = (J - mean.unsqueeze(-1)) * (p / T).sqrt().unsqueeze(1)
    delta = (J @ slope.unsqueeze(-1)).squeeze(-1)
    rest = _behind_norms(block, first, last, on, slope) if block.layer_norm else None
    return Behind(float(loss), delta, spread @ spread.mT, rest)


def _behind_norms(block: Block, first: _Norm, last: _Norm, on: Tensor, slope: Tensor) -> Tensor:
    """Second derivative of the logits by F, contracted with the slope of the loss."""
    at_last = slope @ block.W_U.mT
    after = last.pull(at_last.unsqueeze(-1)).squeeze(-1)
    at_first = ((after @ block.W_out.mT) * on) @ block.W_in.mT
    W, D = block.W_O, block.W_O.shape[1]
    c, rho = first.c, first.rho.unsqueeze(-1)
    rank_one = (c @ W.mT).unsqueeze(-1) * (c @ block.W_in).unsqueeze(1)
    left = (W - W.mean(-1, keepdim=True)) @ block.W_in / rho - rank_one / (D * rho**3)
    left *= on.unsqueeze(1)
    E = (left.flatten(0, 1) @ block.W_out).unflatten(0, left.shape[:2]) + W  # dy / dF, (T, d, D)
    return last.curved(at_last, E) + first.curved(at_first, W)


@dataclass(frozen=True)
class Factors:
    """sum_i x_i x_i^T tensor K^T C_i K for W_Q and sum_i m_i m_i^T tensor B_i for W_V.

    Attributes:
        x: Tokens of the queries (N, A, D), A answer tokens a sequence.
        m: Their attention means (N, A, D).
        K: Keys (N, L, d).
        C: By part: (N, A, L, L).
        B: By part: (N A, d, d).
        loss: The loss.
    """

    x: Float[Tensor, "N A D"]
    m: Float[Tensor, "N A D"]
    K: Float[Tensor, "N L d"]
    C: dict[str, Tensor]
    B: dict[str, Tensor]
    loss: float


def factors(block: Block, X: Float[Tensor, "N L D"], tokens: Int[Tensor, "N L"]) -> Factors:
    """Everything that the blocks of W_Q and W_V are made of.

    Args:
        block: Weights.
        X: Embeddings.
        tokens: Tokens; the last six are the answer.

    Returns:
        The factors; parts are "total", "outer" and "functional".
    """
    L, where = X.shape[1], answers(X.shape[1])
    x = _Norm(X, block.layer_norm).u
    Q, K, V = x[:, where] @ block.W_Q, x @ block.W_K, x @ block.W_V
    s = block.W_Q.shape[1] ** -0.5
    mask = torch.ones(L, L, dtype=torch.bool, device=X.device).tril()[where]
    T = s * Q @ K.mT
    if block.kernel == "softmax":
        A = torch.softmax(T.masked_fill(~mask, float("-inf")), -1)
        spread = torch.diag_embed(A) - A.unsqueeze(-1) * A.unsqueeze(-2)
    else:
        A = T * mask
        spread = torch.diag_embed(mask.to(X.dtype)).expand(len(X), -1, -1, -1)
    m, F = A @ x, A @ V
    target = tokens[:, where.start + 1 :].flatten()
    after = _behind(block, X[:, where].flatten(0, 1), F.flatten(0, 1), target)

    def seen(B: Tensor) -> Tensor:
        left = s * spread @ V.unsqueeze(1)
        return left @ B.unflatten(0, A.shape[:2]) @ left.mT

    C, B = {"outer": seen(after.outer)}, {"outer": after.outer}
    C["functional"] = torch.zeros_like(C["outer"])
    if block.kernel == "softmax":
        G = after.delta.unflatten(0, A.shape[:2]) @ V.mT
        P = A * (G - (A * G).sum(-1, keepdim=True))
        cross = P.unsqueeze(-1) * A.unsqueeze(-2)
        C["functional"] = s**2 * (torch.diag_embed(P) - cross - cross.mT)
    if after.functional is not None:
        C["functional"] = C["functional"] + seen(after.functional)
        B["functional"] = after.functional
        B["total"] = after.outer + after.functional
    C["total"] = C["outer"] + C["functional"]
    return Factors(x[:, where], m, K, C, B, after.loss)


def query_norm(made: Factors, part: str) -> float:
    """Frobenius norm of the W_Q, W_Q block.

    Args:
        made: Factors.
        part: "total", "outer" or "functional".

    Returns:
        The norm.
    """
    C, K = made.C[part], made.K
    x = made.x.flatten(0, 1)
    weights = (x @ x.mT).square().unflatten(1, C.shape[:2]).unflatten(0, C.shape[:2])
    total = 0.0
    for a in range(len(K)):  # one sequence against all: keeps the work space small
        G = K[a] @ K.mT  # (N, L, L)
        left = (C[a].flatten(0, 1) @ G).unflatten(1, C.shape[1:3])  # (N, A, L, L)
        right = G.unsqueeze(1) @ C
        traces = left.flatten(2) @ right.flatten(2).mT
        total += float((traces * weights[a].movedim(1, 0)).sum())
    return max(total, 0.0) ** 0.5


def value_norm(made: Factors, part: str) -> float:
    """Frobenius norm of the W_V, W_V block.

    Args:
        made: Factors.
        part: "total", "outer" or "functional".

    Returns:
        The norm.
    """
    if part not in made.B:  # nothing curves behind F but the loss
        return value_norm(made, "outer") if part == "total" else 0.0
    B = made.B[part]
    d = B.shape[-1]
    row, column = torch.triu_indices(d, d, device=B.device)
    flat = B.flatten(1)[:, row * d + column] * torch.where(row == column, 1.0, 2.0**0.5)
    m = made.m.flatten(0, 1)
    return max(float(((flat @ flat.mT) * (m @ m.mT).square()).sum()), 0.0) ** 0.5


def dense(made: Factors, name: str, part: str = "total") -> Float[Tensor, "P P"]:
    """A block written out, for small sizes.

    Args:
        made: Factors.
        name: "W_Q" or "W_V".
        part: "total", "outer" or "functional".

    Returns:
        The matrix, rows and columns flattened as (D, d).
    """
    if name == "W_Q":
        left, right = made.x, made.K.mT.unsqueeze(1) @ made.C[part] @ made.K.unsqueeze(1)
    else:
        left, right = made.m, made.B.get(part, made.B["outer"] * float(part == "total"))
    block = torch.einsum("ia,ib,ist->asbt", left.flatten(0, 1), left.flatten(0, 1),
                         right.flatten(0, -3))  # fmt: skip
    return block.flatten(2).flatten(0, 1)
