"""The encoder on padded batches against its sequences taken one by one, which no mask enters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples_padded import LENGTHS, Padded, padded

from gdconv.data.problem import Problem
from gdconv.models.encoder.constants import DataConstants, EncoderConstants
from gdconv.models.encoder.model import ShallowEncoder
from gdconv.models.encoder.parameters import BLOCKS, EncoderParameters
from gdconv.models.encoder.point import EncoderPoint
from gdconv.models.encoder.tangent import encoder_kernel, encoder_ntk_vector_product, ladder
from gdconv.models.encoder.tangent_slack import kernel_slack
from gdconv.testing.constants import exceeded

LABELS = np.array([0.3, -1.0, 2.0, 0.7])
LECUN = {"relu": lambda x: torch.clamp(x, min=0), "gelu": torch.nn.functional.gelu}
LARGEST = {"relu": 1.0, "gelu": 1.12891}
N, D = len(LENGTHS), 5


def made(activation: str = "gelu") -> ShallowEncoder:
    """Factors that are no powers of two."""
    return ShallowEncoder(0.7, 1.3, 0.6, activation)


def weights(d_m: int = 6, D: int = D, seed: int = 2) -> EncoderParameters:
    """Gaussian weights."""
    rng = np.random.default_rng(seed)
    blocks = {b: 0.6 * rng.standard_normal((d_m, D)) for b in BLOCKS[:3]}
    return EncoderParameters.from_arrays(blocks | {"w_O": rng.standard_normal(d_m)})


def labelled(data: Padded) -> Problem:
    """One label per sample."""
    return Problem.per_sample(data.X, LABELS[: len(data.sequences)], mask=data.mask)


def reference(activation: str, data: Padded, *W: torch.Tensor) -> torch.Tensor:
    """sqrt(0.6) f(X_i) token by token."""
    W_Q, W_K, W_V, w_O = W
    found = []
    for sequence in data.sequences:
        x, total = torch.from_numpy(sequence), torch.zeros((), dtype=torch.float64)
        for token in x:
            raw = torch.exp(0.7 * (x @ W_K.T) @ (W_Q @ token))
            h = W_V @ ((raw / raw.sum()) @ x)
            total = total + w_O @ LECUN[activation](h) / LARGEST[activation]
        found.append(1.3 * total)
    return 0.6**0.5 * torch.stack(found)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_loss_gradient_and_kernel_are_those_of_the_sequences(activation: str) -> None:
    data, params, model = padded(D=D), weights(), made(activation)
    problem, W = labelled(data), tuple(getattr(params, b)[0] for b in BLOCKS)
    residual = reference(activation, data, *W) - 0.6**0.5 * torch.from_numpy(LABELS)
    J = torch.autograd.functional.jacobian(lambda *w: reference(activation, data, *w), W)
    J = torch.cat([part.flatten(1) for part in J], 1)
    at, grad = model.gradient(problem, params)
    found = torch.cat([getattr(grad, b)[0].flatten() for b in BLOCKS])
    assert at.loss.item() == pytest.approx(0.5 * float(residual.square().sum()), rel=1e-13)
    assert (found - J.T @ residual).norm() <= 1e-13 * J.norm() * residual.norm()
    assert (model.jacobian(problem, params)[0] - J).norm() <= 1e-13 * J.norm()
    K = encoder_kernel(model, problem, params)[0]
    assert (K - J @ J.T).norm() <= 1e-13 * J.norm() ** 2
    v = torch.from_numpy(LABELS)[None]
    product = encoder_ntk_vector_product(model, problem, params, v)[0]
    assert (product - J @ (J.T @ v[0])).norm() <= 1e-12 * J.norm() ** 2
    rungs = ladder(model, problem, params)[0]
    assert rungs.broken() == ()
    least = float(torch.linalg.eigvalsh(J @ J.T)[0])
    assert rungs.full.lo <= least * (1 + 1e-9)
    assert least <= rungs.full.hi * (1 + 1e-9)
    slack = kernel_slack(model, problem, params)[0].total
    assert float((K - J @ J.T).norm()) <= slack < 1e-9 * float(J.norm()) ** 2
    probed = model.probe(problem, params)
    found, wanted = (
        torch.cat([getattr(probed.gradient, b)[0].flatten() for b in BLOCKS]),
        J.T @ residual,
    )
    assert (found - wanted).norm() <= 1e-12 * wanted.norm()


def test_labels_per_token_are_averaged_over_the_real_ones() -> None:
    data = padded(D_y=1)
    problem = Problem.per_sample(data.X, data.y, mask=data.mask)
    wanted = [float(y.mean()) for y in data.targets]
    assert problem.y.flatten().tolist() == pytest.approx(wanted, rel=1e-14)
    assert problem.y.shape == (1, N, 1, 1)


def test_constants_are_those_of_the_page_with_every_sample_at_its_length() -> None:
    data, params, model = padded(D=D), weights(), made()
    start = EncoderPoint(model, labelled(data), params)
    n, X, c = np.array(LENGTHS), data.sequences, 1.3 * 0.6**0.5

    def spectral(A: np.ndarray) -> float:
        return float(np.linalg.norm(A, 2))

    centred = [x - x.mean(0) for x in X]
    a, t = (np.array([spectral(x) for x in tokens]) for tokens in (X, centred))
    hat = np.array([np.linalg.norm(x, axis=1).max() for x in X])
    stack = np.concatenate
    A_O = c * float(np.linalg.norm(n * hat))
    wanted = {
        "A_O": A_O,
        "A_V": min(A_O, c * spectral(stack([k * x for k, x in zip(n, X, strict=True)]))),
        "A_Q": 0.35
        * c
        * spectral(stack([k**0.5 * s**2 * x for k, s, x in zip(n, t, X, strict=True)])),
        "A_K": 0.35
        * c
        * spectral(
            stack([k**0.5 * s * r * x for k, s, r, x in zip(n, t, a, centred, strict=True)])
        ),
    }
    found = DataConstants.sharp(start)
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, abs=0.0), name
    plain = DataConstants.plain(start)
    assert all(getattr(plain, name) >= value for name, value in wanted.items())
    assert pytest.approx(N**0.5 * 4 * c * max(np.linalg.norm(x) for x in X), rel=1e-12) == plain.A_O
    made_of = EncoderConstants(start, found, dict.fromkeys(BLOCKS, 0.0))
    Q, K, V, O = (start.norm(b) for b in BLOCKS)  # noqa: E741
    pair, second = (Q**2 + K**2) ** 0.5, 6**0.5 / 9
    E, E_3 = (float(np.linalg.norm(n**0.5 * s)) for s in (t**2 * a, t**3 * a**2))
    e = c * O * V * (second * 0.49 * pair**2 * E_3 + 0.35 * E)
    mixed = c * 0.7 * O * pair * E
    curved = (e + (e**2 + mixed**2) ** 0.5) / 2
    assert made_of.curved() == pytest.approx(curved, rel=1e-12)
    Lambda = n * hat**2 + (V * 0.35 * t**2 * a * pair) ** 2
    entry = float(np.abs(start.arrays["w_O"]).max())
    B = c * model.act.curvature * entry * float(np.linalg.norm(Lambda)) + curved
    M_2 = (B + (B**2 + 4 * made_of.Lambda_squared) ** 0.5) / 2
    assert made_of.M_2(entry) == pytest.approx(M_2, rel=1e-12)


def test_no_search_finds_larger_derivatives() -> None:
    data, params, model = padded((3, 1), D=2, places=4, seed=3), weights(2, 2), made()
    problem, sizes = labelled(data), [4, 4, 4, 2]
    start = EncoderPoint(model, problem, params)

    def J_at(u: np.ndarray) -> np.ndarray:
        parts = zip(BLOCKS, torch.from_numpy(u).split(sizes), strict=True)
        moved = {b: getattr(params, b) + p.view_as(getattr(params, b)) for b, p in parts}
        return model.jacobian(problem, replace(params, **moved))[0].numpy()

    for rho in (0.05, 0.4):
        c = EncoderConstants(start, DataConstants.sharp(start), dict.fromkeys(BLOCKS, rho))
        entry = float(np.abs(start.arrays["w_O"]).max()) + rho
        assert not exceeded(J_at, 14, rho, c.M_2(entry), c.G_squared())


def test_padding_of_one_sequence_changes_nothing() -> None:
    data, params, model = padded((3,), places=6), weights(), made("relu")
    alone = Problem.per_sample(data.sequences[0][None], LABELS[:1])
    one, other = (EncoderPoint(model, p, params) for p in (alone, labelled(data)))
    assert one.f_0 == pytest.approx(other.f_0, rel=1e-13)
    assert (one.n, one.C_x) == (other.n, pytest.approx(other.C_x, rel=1e-13))
    for kind in ("plain", "printed", "sharp"):
        a, b = (getattr(DataConstants, kind)(s) for s in (one, other))
        for name in ("A_O", "A_V", "A_Q", "A_K"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12)
    assert one.probe().entropy[0] == pytest.approx(other.probe().entropy[0], rel=1e-12)
