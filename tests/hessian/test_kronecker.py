"""The moment form against the paper's matrix form: Kronecker products, Z1, Z2, commutation."""

from __future__ import annotations

import numpy as np
import pytest
from hessian.reference import draw

from gdconv.hessian.dense import hessian_block

L, D, d = 4, 3, 2
I = np.eye  # noqa: E741


def kron(*factors: np.ndarray) -> np.ndarray:
    made = np.eye(1)
    for factor in factors:
        made = np.kron(made, factor)
    return made


def commutation(rows: int, columns: int) -> np.ndarray:
    """K vec(W) = vec(W^T) for W (rows, columns), vec row by row."""
    index = np.arange(rows * columns).reshape(rows, columns).T.reshape(-1)
    return np.eye(rows * columns)[index]


def softmax_derivatives(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dA/dT (L^2, L^2) and d^2 A/dT^2 (L^4, L^2), entry by entry."""
    first, second = np.zeros((L,) * 4), np.zeros((L,) * 6)
    for i in range(L):
        a = A[i]
        for j in range(L):
            for k in range(L):
                first[i, j, i, k] = a[j] * ((j == k) - a[k])
                for m in range(L):
                    change_j, change_k = a[j] * ((j == m) - a[m]), a[k] * ((k == m) - a[m])
                    second[i, j, i, k, i, m] = change_j * ((j == k) - a[k]) - a[j] * change_k
    return first.reshape(L**2, L**2), second.reshape(L**4, L**2)


def matrix_form(  # type: ignore[no-untyped-def]
    layer, part: str, whole: bool = True
) -> dict[tuple[str, str], np.ndarray]:
    X, Y = layer.X[0].numpy(), layer.Y[0].numpy()
    W_Q, W_K, W_V = (layer.weight(name)[0].numpy() for name in ("W_Q", "W_K", "W_V"))
    T = X @ W_Q @ W_K.T @ X.T / d**0.5
    A = np.exp(T) / np.exp(T).sum(1, keepdims=True)
    first, second = softmax_derivatives(A)
    Z1 = kron(I(L), X.T) @ first @ kron(X, X)
    Z2 = kron(I(L), X.T, X.T, X.T) @ second @ kron(X, X)
    K, c, M1 = commutation(D, d), 2 / (L * D), A @ X
    S = kron(I(D), commutation(D, D)) @ kron(I(D).reshape(-1, 1), I(D))
    right = {"W_Q": kron(I(D), W_K), "W_K": kron(W_Q, I(D)) @ K}
    r = (A @ X @ W_V - Y).reshape(1, -1)

    def R(m: int) -> np.ndarray:
        return kron(r, I(m))

    made: dict[tuple[str, str], np.ndarray] = {}
    zero = np.zeros((D * D, D * D))
    made["W_V", "W_V"] = c * kron(M1.T @ M1, I(D)) if part == "outer" else zero
    gram = Z1.T @ kron(I(L), W_V @ W_V.T) @ Z1
    third = R(D * D) @ kron(I(L), W_V.T, I(D), I(D)) @ Z2
    for name in ("W_Q", "W_K"):
        block = kron(M1.T, W_V.T) if part == "outer" else R(D * D) @ kron(I(L), S)
        made["W_V", name] = c / d**0.5 * block @ Z1 @ right[name]
        for other in ("W_Q", "W_K"):
            core = gram if part == "outer" else third
            made[name, other] = c / d * right[name].T @ core @ right[other]
    if part == "functional" and whole:
        bilinear = kron(I(L), W_V.T, I(D)) @ kron(Z1, I(D)) @ S
        made["W_Q", "W_K"] = made["W_Q", "W_K"] + c / d**0.5 * R(D * d) @ kron(bilinear, I(d))
        made["W_K", "W_Q"] = made["W_Q", "W_K"].T
    return made


@pytest.mark.parametrize("part", ["outer", "functional"])
@pytest.mark.parametrize("seed", range(4))
def test_every_block(part: str, seed: int) -> None:
    layer = draw("softmax", (1, L, D, d, 1, 0, D), seed)
    for (row, column), expected in matrix_form(layer, part).items():
        found = hessian_block(layer, row, column, part).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-13 * max(1.0, np.abs(expected).max()))


def test_the_bilinear_term_is_needed() -> None:
    """Negative control: T is bilinear in (W_Q, W_K), which is half of the block."""
    layer = draw("softmax", (1, L, D, d, 1, 0, D), 0)
    found = hessian_block(layer, "W_Q", "W_K", "functional").numpy()
    without = matrix_form(layer, "functional", whole=False)["W_Q", "W_K"]
    assert np.abs(found - without).max() > 1e-3
