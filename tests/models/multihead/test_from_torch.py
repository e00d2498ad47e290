"""A layer of torch and the model made of its weights give the same outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import model
from samples_padded import padded
from torch import nn

import gdconv
from gdconv.data.problem import Problem
from gdconv.models.multihead.from_torch import attention_weights
from gdconv.models.multihead.parameters import Parameters
from gdconv.support.errors import InputError


def layer(E: int = 6, heads: int = 3, **options: Any) -> nn.MultiheadAttention:
    """A layer in float64, of weights without structure."""
    torch.manual_seed(3)
    made = nn.MultiheadAttention(E, heads, batch_first=True, dtype=torch.float64, **options)
    for p in made.parameters():
        nn.init.normal_(p, std=0.0 if p.ndim == 1 else 0.7)
    return made.eval()


def arrays(made: nn.Module) -> dict[str, np.ndarray]:
    """Its state_dict as arrays."""
    return {name: value.numpy() for name, value in made.state_dict().items()}


@pytest.mark.parametrize(("E", "heads"), [(6, 3), (6, 2), (6, 6), (4, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_torch(E: int, heads: int, bias: bool) -> None:
    made = layer(E, heads, bias=bias)
    data = padded(D=E, D_y=E)
    params = Parameters.from_arrays(attention_weights(arrays(made), heads))
    assert params.W_Q.shape == (1, heads, E, E // heads)
    assert params.W_O.shape == (1, heads, E // heads, E)
    X = torch.from_numpy(np.where(data.mask[..., None], data.X, 0.0))
    hidden = torch.from_numpy(~data.mask)
    with torch.no_grad():
        masked = made(X, X, X, key_padding_mask=hidden, need_weights=False)[0]
        whole = made(X, X, X, need_weights=False)[0]
    found = model("softmax").forward(data.problem, params).F[0]
    assert (found - masked)[~hidden].abs().max() <= 1e-12
    assert not found[hidden].any()
    plain = Problem.from_arrays(X, torch.zeros_like(X))
    assert (model("softmax").forward(plain, params).F[0] - whole).abs().max() <= 1e-12


def test_separate_projections_and_a_prefix() -> None:
    made = layer(bias=False)
    packed = arrays(made)
    q, k, v = np.split(packed["in_proj_weight"], 3)
    apart = {"q_proj_weight": q, "k_proj_weight": k, "v_proj_weight": v}
    apart = {f"block.attn.{name}": value for name, value in apart.items()}
    apart["block.attn.out_proj.weight"] = packed["out_proj.weight"]
    one, other = (attention_weights(state, 3) for state in (packed, apart))
    assert all(np.array_equal(one[b], other[b]) for b in one)


def test_what_is_refused() -> None:
    state = arrays(layer())

    def refused(match: str, heads: int | None = 3, **change: np.ndarray | None) -> None:
        changed = {k: v for k, v in (state | change).items() if v is not None}
        with pytest.raises(InputError, match=match):
            attention_weights(changed, heads)

    refused("heads = nothing: give heads=", heads=None)
    refused("heads = 4: give a divisor of E = 6", heads=4)
    refused("weights = in_proj_bias is not zero: .*bias=False", in_proj_bias=np.full(18, 1e-30))
    refused("out_proj.bias is not zero", **{"out_proj.bias": np.full(6, np.nan)})
    refused("bias_k is not zero", bias_k=np.ones((1, 1, 6)))
    refused(
        "weights = norm.weight: give the state_dict of the attention", **{"norm.weight": np.ones(6)}
    )
    refused(r"in_proj_weight of shape \(18, 5\)", in_proj_weight=np.ones((18, 5)))
    refused(r"out_proj.weight of shape \(5, 6\)", **{"out_proj.weight": np.ones((5, 6))})
    refused("no out_proj.weight: give the whole", **{"out_proj.weight": None})
    refused("attention layers \\* and b", **{"b.in_proj_weight": np.ones((18, 6))})
    cross = arrays(nn.MultiheadAttention(6, 3, kdim=4, bias=False))
    with pytest.raises(InputError, match=r"k_proj_weight of shape \(6, 4\)"):
        attention_weights(cross, 3)


def test_a_layer_or_its_state_dict_starts_a_run() -> None:
    made = layer(4, 2)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 2, 4)), rng.standard_normal((2, 2, 4))
    options: dict[str, Any] = {"X": X, "y": y, "step": 1e-3, "steps": 3}
    one = gdconv.check("full-gd", weights=made, **options)
    other = gdconv.check("full-gd", weights=made.state_dict(), heads=2, **options)
    assert one.config == other.config
    assert (one.config["heads"], one.config["head_dim"]) == (2, 2)
    tokens = torch.from_numpy(X)
    with torch.no_grad():
        F = made(tokens, tokens, tokens, need_weights=False)[0]
    loss = 0.5 * float((F - torch.from_numpy(y)).square().sum())
    for check in (one, other):
        assert check.runs["loss_first"][0] == pytest.approx(loss, rel=1e-12)
    with pytest.raises(InputError, match="heads = 4: leave it out: the layer has 2"):
        gdconv.check("full-gd", weights=made, heads=4, **options)
    with pytest.raises(InputError, match="heads = nothing"):
        gdconv.check("full-gd", weights=made.state_dict(), **options)
    with pytest.raises(InputError, match="head_dim = 3: leave it out, or give 2"):
        gdconv.check("full-gd", weights=made, head_dim=3, **options)
    with pytest.raises(InputError, match="add_zero_attn"):
        gdconv.check("full-gd", weights=layer(4, 2, add_zero_attn=True), **options)
    with pytest.raises(InputError, match="weights = D = 4: give weights for the data"):
        gdconv.check("full-gd", weights=made, **options | {"X": X[..., :3]})
