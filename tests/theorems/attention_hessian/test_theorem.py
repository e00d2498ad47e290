"""The attention Hessian's statements: confirmed as they stand, each refuted by its own fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gdconv
from gdconv.gallery.attention_hessian import depth as hessian_depth
from gdconv.gallery.attention_hessian import evidence as hessian_evidence
from gdconv.gallery.attention_hessian.depth import deep_net
from gdconv.gallery.attention_hessian.evidence import Case, deep_norms, laws
from gdconv.gallery.attention_hessian.theorem import SOFTMAX, AttentionHessian
from gdconv.hessian import dense, softmax
from gdconv.hessian.layer import AttentionLayer, attention_layer
from gdconv.support.config import Config
from gdconv.support.errors import InputError
from gdconv.support.statistics import growth

THEOREM = AttentionHessian()
ALL = {s.name for s in THEOREM.statements()}


def case(seed: int = 0, **sizes: int) -> Case:
    return THEOREM.case(Config(THEOREM.id, **sizes).resolve(THEOREM.reads), seed)  # type: ignore[arg-type]


def verdicts(names: set[str] | None = None, seed: int = 0, **sizes: int) -> dict[str, str]:
    drawn = case(seed, **sizes)
    chosen = [s for s in THEOREM.statements() if names is None or s.name in names]
    return {s.name: THEOREM.find(s, drawn).verdict()[0] for s in chosen}


def refuted(names: set[str] | None = None) -> set[str]:
    return {name for name, verdict in verdicts(names).items() if verdict == "refuted"}


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six draws and four scales instead of twelve and seven."""
    monkeypatch.setattr(hessian_evidence, "POINTS", 4)
    for module in (
        "gdconv.gallery.attention_hessian.evidence",
        "gdconv.gallery.attention_hessian.theorem",
    ):
        monkeypatch.setattr(f"{module}.REPLICAS", 6)


def test_every_statement_is_confirmed() -> None:
    assert verdicts(seed=1) == dict.fromkeys(ALL, "confirmed")


@pytest.mark.parametrize("sizes", [(2, 4, 3, 2, 1), (1, 5, 4, 5, 3)])
def test_other_sizes(sizes: tuple[int, ...]) -> None:
    names = ("samples", "tokens", "embedding", "head_dim", "heads")
    found = verdicts(ALL - {"perceptron", "depth", "growth-variants"},
                     **dict(zip(names, sizes, strict=True)))  # fmt: skip
    assert set(found.values()) == {"confirmed"}


@pytest.mark.parametrize("size", [10**5, 10**9, 2**63, 10**30])
@pytest.mark.parametrize("field", ["tokens", "embedding", "head_dim", "heads"])
def test_a_layer_larger_than_memory_is_refused_before_it_is_drawn(field: str, size: int) -> None:
    with pytest.raises(InputError, match=f"^{field} = {size}: make it smaller: the .* 4 GiB"):
        gdconv.check("attention-hessian", statement="indefinite", **{field: size})
    with pytest.raises(InputError, match=rf"^samples = {2**63}: make it smaller"):
        gdconv.check("attention-hessian", statement="temperature", samples=2**63)


def test_two_tokens_are_outside_the_general_law_and_no_more() -> None:
    found = verdicts({"growth", "identities", "saturation"}, tokens=2)
    assert found == {"growth": "outside", "identities": "confirmed", "saturation": "confirmed"}


Fault = Callable[[torch.Tensor, AttentionLayer, str, tuple[str, ...]], None]


def plant(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Change what the dense closed form returns."""
    true = dense.hessian

    def wrong(layer: Any, names: Any = None, part: str = "total", *rest: Any) -> torch.Tensor:
        H = true(layer, names, part, *rest).clone()
        fault(H, layer, part, layer.chosen(names))
        return H

    monkeypatch.setattr(dense, "hessian", wrong)


def cuts(layer: AttentionLayer, names: tuple[str, ...]) -> dict[str, slice]:
    ends = np.cumsum((0, *layer.sizes(names)))
    return {n: slice(a, b) for n, a, b in zip(names, ends[:-1], ends[1:], strict=True)}


def test_one_wrong_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """H(KV) five per cent too large: its exponent is right, the identity is not."""

    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        at = cuts(layer, names)
        if {"W_K", "W_V"} <= set(names):
            for row, column in (("W_K", "W_V"), ("W_V", "W_K")):
                H[at[row], at[column]] *= 1.05

    plant(monkeypatch, fault)
    assert refuted(ALL - {"perceptron", "depth", "outer-psd"}) == {"identities"}


def test_a_missing_functional_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the term of the bilinear scores QK grows as s^5 and falls as tau^-2."""

    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        if part == "outer" or not {"W_Q", "W_K"} <= set(names) or layer.kernel != "softmax":
            return
        at, point = cuts(layer, names), softmax.Moments(dense.evaluate(layer), part)
        D, d = layer.W_Q.shape[1:]
        for h in range(layer.H):
            q, k = at["W_Q"].start + h * D * d, at["W_K"].start + h * D * d
            block = H[q : q + D * d, k : k + D * d].unflatten(0, (D, d)).unflatten(2, (D, d))
            block.diagonal(dim1=1, dim2=3).sub_(point.b[h].unsqueeze(-1))
            H[k : k + D * d, q : q + D * d] = H[q : q + D * d, k : k + D * d].mT

    plant(monkeypatch, fault)
    found = verdicts(ALL - {"perceptron", "depth", "outer-psd"})
    assert found.pop("growth-variants") != "confirmed"  # L = 2: only rounding is left of QK
    assert {name for name, verdict in found.items() if verdict == "refuted"} == {
        "identities", "growth", "temperature", "layer-norm",
    }  # fmt: skip


def slow_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch path, which reads `Moments`."""
    true = dense.hessian

    def plain(layer: Any, names: Any = None, part: str = "total") -> torch.Tensor:
        return true(layer, names, part, None, False)

    monkeypatch.setattr(dense, "hessian", plain)


def test_a_wrong_third_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not centred: sum_j P_ij k_j k_j^T; refutes the identities, not H_o >= 0."""
    slow_hessian(monkeypatch)

    def raw(self: Any, f: Any, f_mean: Any, g: Any, g_mean: Any) -> torch.Tensor:
        made = self._pair_sums(self.at.P, f, g)
        return made.mul_(self.c * self.s**2).flatten(1, 2)

    monkeypatch.setattr(softmax.Moments, "_third", raw)
    assert refuted({"identities", "outer-psd", "value-functional-zero"}) == {"identities"}


def test_a_wrong_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not centred: it does not vanish where attention is one-hot."""
    slow_hessian(monkeypatch)

    def raw(
        self: Any, f: Any, f_mean: Any, g: Any, g_mean: Any, scale: float = 1.0
    ) -> torch.Tensor:
        return self._pair_sums(self.at.A, f, g).mul_(scale).flatten(1, 2)

    monkeypatch.setattr(softmax.Moments, "_second", raw)
    assert refuted({"identities", "saturation", "value-functional-zero"}) == {
        "identities", "saturation",
    }  # fmt: skip


def test_a_negative_direction_in_the_outer_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functional part, a thousandth of it, is enough."""
    true = dense.hessian

    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        if part == "outer":
            H += 1e-3 * true(layer, names, "functional")

    monkeypatch.setattr(dense, "hessian", true)
    plant(monkeypatch, fault)
    assert refuted({"outer-psd", "value-functional-zero"}) == {"outer-psd"}


def test_curvature_along_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        if part == "functional" and "W_V" in names:
            H[-1, -1] += 1e-14

    plant(monkeypatch, fault)
    assert refuted({"value-functional-zero", "outer-psd", "growth"}) == {"value-functional-zero"}


def test_a_functional_part_without_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """|H_f| instead of H_f: no negative curvature is left."""

    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        w, V = torch.linalg.eigh(H)
        absolute = (V * w.abs()) @ V.mT
        H.copy_(0.5 * (absolute + absolute.mT))

    plant(monkeypatch, fault)
    assert refuted({"indefinite", "outer-psd"}) == {"indefinite"}


def test_a_quadratic_law_of_linear_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks divided by |X|^2."""

    def fault(H: torch.Tensor, layer: Any, part: str, names: tuple[str, ...]) -> None:
        if layer.kernel == "linear":
            H /= layer.X.square().sum()

    plant(monkeypatch, fault)
    assert refuted({"linear-attention", "growth"}) == {"linear-attention"}


@pytest.mark.parametrize("below", [(30.0, 0.3), (3.0, 0.03)])
def test_a_fit_of_too_wide_a_range_is_outside(
    below: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two decades across the crossover of H_o and H_f."""
    monkeypatch.setattr(hessian_evidence, "BELOW", below)
    assert verdicts({"growth"}) == {"growth": "outside"}


def test_wrong_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of one kernel is not that of another."""
    monkeypatch.setattr("gdconv.gallery.attention_hessian.theorem.GAUSSIAN", SOFTMAX)
    assert refuted({"growth", "growth-variants"}) == {"growth-variants"}
    monkeypatch.setattr("gdconv.gallery.attention_hessian.theorem.SOFTMAX",
                        laws("2 5.2 5 3 3 3", "2 6 6 4 4 6", "- 5 5 3 3 3"))  # fmt: skip
    assert refuted({"growth"}) == {"growth"}


def test_layer_norm_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are only centred."""

    def centred(self: AttentionLayer) -> torch.Tensor:
        return self.X - self.X.mean(-1, keepdim=True)

    monkeypatch.setattr(AttentionLayer, "tokens", property(centred))
    assert refuted({"layer-norm"}) == {"layer-norm"}


def test_deep_networks_of_another_degree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares instead of ReLU; one layer instead of m."""
    deep_norms.cache_clear()
    monkeypatch.setitem(hessian_depth.ACTIVATIONS, "relu", lambda t: t * t)
    assert refuted({"perceptron"}) == {"perceptron"}
    monkeypatch.setattr(hessian_depth.DeepNet, "depth", property(lambda net: 1))
    deep_norms.cache_clear()
    assert refuted({"depth"}) == {"depth"}
    deep_norms.cache_clear()


def test_one_deep_layer_is_the_linear_layer() -> None:
    """The network of depth 1 against the closed form of linear attention."""
    net = deep_net("attention", 1, (4, 3, 2), 3)
    W_Q, W_K, W_V = net.weights.values()
    layer = attention_layer(net.X, net.Y, W_Q=W_Q, W_K=W_K, W_V=W_V, kernel="linear")
    found = net.norms(torch.tensor([1.0, 0.5], dtype=torch.float64))
    H, at = dense.hessian(layer), cuts(layer, layer.names)
    for (part, row, column), sizes in found.items():
        if part == "total":
            block = H[at[f"W_{row[0]}"], at[f"W_{column[0]}"]]
            assert float(sizes[0]) == pytest.approx(float(block.norm()), rel=1e-12)


def test_whole_hessian_of_a_perceptron_has_exponent_one() -> None:
    """The whole Hessian of a perceptron has the exponent 1, not 2: its off-diagonal blocks do."""
    x, norms, _ = deep_norms("linear", 3, 0)
    whole = np.sqrt(sum((2 if b[:2] != b[2:] else 1) * v**2
                        for (p, b), v in norms.items() if p == "total"))  # fmt: skip
    assert growth(x, whole).distance(1).high < 0.05


def test_the_check_is_saved_with_its_curves() -> None:
    check = gdconv.check("attention-hessian", statement="growth", seeds=2, tokens=4)
    assert check.verdict == "confirmed"
    assert {"H(QQ)", "H_o(QQ)", "H_f(QQ)"} <= set(check.trace["series"])


def test_a_layer_norm_of_one_feature_is_zero_and_divides_nothing() -> None:
    """Every warning is an error here: 0 / 0 was printed once."""
    check = gdconv.check("attention-hessian", statement="outer-psd", embedding=1, tokens=1)
    assert check.verdict == "confirmed"
    assert "lambda_min / lambda_max" in check.verdicts["note"].iloc[0]
