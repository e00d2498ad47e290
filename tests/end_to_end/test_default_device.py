"""Every tensor is made on the device of its inputs, whatever torch's default device is.

The default device here is "meta", whose tensors hold no numbers: one of them anywhere in a
computation ends in an error, as a second device would.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._device import _device_constructors

import gdconv
from gdconv.theory.registry import registry
from gdconv.theory.verdict import ORDER

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {maker.__name__ for maker in _device_constructors()}
"""Functions of torch that make a tensor on the default device unless they are told another."""

TINY = {"samples": 2, "tokens": 3, "embedding": 4, "head_dim": 2, "heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "full-gd": {"samples": 2, "tokens": 2, "heads": 2, "head_dim": 2, "steps": 5},
    "query-gd": {"samples": 1, "tokens": 2, "steps": 5},
    "ntk-regime": {"samples": 2, "width": 32, "steps": 5},
    "attention-hessian": TINY,
    "convex-attention": {"samples": 4, "tokens": 2},
}
"""Small settings; a theorem that is not here is checked with its own."""


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Tensors without a named device are made where they cannot be computed with."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("package", ["gdconv", "theorems", "experiments"])
def test_every_maker_of_tensors_names_a_device(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _on_default_device(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def _on_default_device(call: ast.Call) -> bool:
    """torch.zeros(...) and the like without a device, torch.Generator() without one."""
    name = ast.unparse(call.func)
    if not name.startswith("torch."):
        return False
    if name == "torch.Generator":
        return not (call.args or call.keywords)
    # a keyword without a name is **options
    named = any(keyword.arg in ("device", None) for keyword in call.keywords)
    return name.removeprefix("torch.") in MAKERS and not named


@pytest.mark.parametrize("source", ["torch.zeros(3)", "torch.as_tensor(x)", "torch.Generator()"])
def test_the_rule_sees_a_maker_without_a_device(source: str) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _on_default_device(call)


def settings() -> list[tuple[str, dict[str, Any]]]:
    """Every theorem's default statements, its a-posteriori one, and both engines and models."""
    made: list[tuple[str, dict[str, Any]]] = []
    for theorem in registry().values():
        for s in theorem.statements():
            if s.default or s.posterior:
                kernel = {"kernel": s.kernel} if s.kernel else {}
                made.append((
                    theorem.id,
                    {"statement": s.name} | kernel | SIZES.get(theorem.id, {}),
                ))
    run = {"statement": "run", "sharpness": True, "engine": "torch", "data": "digits"}
    made.append(("full-gd", SIZES["full-gd"] | run))
    made.append(("full-gd", {"problem": "stacked-witness"}))
    encoder = {"model": "multihead", "heads": 2, "head_dim": 2, "tokens": 2, "steps": 3}
    made.append(("ntk-regime", {"statement": "linearised", "samples": 2} | encoder))
    return made


@pytest.mark.parametrize(("theorem", "options"), settings(), ids=lambda x: str(x)[:60])
def test_a_check_runs_on_any_default_device(
    theorem: str, options: dict[str, Any], elsewhere: None
) -> None:
    check = gdconv.check(theorem, **options)
    assert check.verdict in ORDER
    assert all(np.isfinite(array).all() for array in check.starts.values())


def layer_from_lists() -> torch.Tensor:
    from gdconv.hessian.layer import attention_layer
    from gdconv.hessian.operators import HessianOperator

    made = attention_layer([[1.0, 0.0], [0.5, 1.0]], [[1.0], [0.0]], [[1.0], [2.0]],
                           np.eye(2), np.eye(2))  # fmt: skip
    return torch.from_numpy(HessianOperator(made).numpy(np.ones(10)))


def hessian_without_keys() -> torch.Tensor:
    from gdconv.hessian import dense
    from gdconv.hessian.layer import attention_layer

    x = np.arange(6.0).reshape(3, 2) / 4
    return dense.hessian(attention_layer(x, x, np.eye(2), W_QK=np.eye(2)))


def deep_norms() -> torch.Tensor:
    from gdconv.gallery.attention_hessian.depth import deep_net

    scales = torch.full((2,), 0.1, dtype=torch.float64, device="cpu")
    return next(iter(deep_net("attention", 2, (3, 2, 2), 0).norms(scales).values()))


def classifier(optimiser: str) -> torch.Tensor:
    from experiments.tasks.classifier import ClassifierSizes, TransformerClassifier
    from experiments.tasks.training import Samples, TrainingPlan, train

    X = torch.from_numpy(np.arange(24).reshape(6, 4) % 5 + 1)
    y = torch.from_numpy(np.arange(6) % 2)
    net = TransformerClassifier(ClassifierSizes(tokens=4, symbols=6), "softmax")
    train(net, Samples(X, y, X, y), TrainingPlan(3, 2, 0.1, optimiser, every=2))
    return torch.cat([w.detach().flatten() for w in net.parameters()])


def non_convex_heads() -> torch.Tensor:
    from gdconv.convex.group_lasso import token_program
    from gdconv.convex.training import train_heads

    program = token_program(np.arange(8.0).reshape(2, 2, 2) / 8, [[1.0, 0.0], [0.5, 1.0]], 0.1)
    return train_heads(program, 2, starts=2, steps=2).values


def block_of_the_transformer() -> torch.Tensor:
    from experiments.hessian_growth.block import addition, draw_block, embed, factors, query_norm

    tokens = addition(2, 0)
    made = factors(draw_block(3, 0), embed(tokens, 3, 0), tokens)
    return torch.from_numpy(np.array([query_norm(made, "total")]))


def drawn_layer() -> torch.Tensor:
    from experiments.hessian_growth.layer import draw

    return draw((3, 2, 1), 0)["X"]


def modular_division(kind: str) -> torch.Tensor:
    from experiments.convex_attention.modular import train

    made = train(kind, 1, 5, 0, (4, 2, 8), {"rate": 0.01, "decay": 0.1, "penalty": 0.01}, 3)
    return torch.from_numpy(np.array(made["rows"]))


PARTS: dict[str, Callable[[], torch.Tensor]] = {
    "layer from lists": layer_from_lists,
    "Hessian without W_K and W_O": hessian_without_keys,
    "deep network": deep_norms,
    "classifier, sgd": lambda: classifier("sgd"),
    "classifier, adam": lambda: classifier("adam"),
    "non-convex heads": non_convex_heads,
    "one-block transformer": block_of_the_transformer,
    "layer of the growth experiment": drawn_layer,
    "modular division, convex": lambda: modular_division("convex"),
    "modular division, standard": lambda: modular_division("standard"),
    "modular division, simplex": lambda: modular_division("simplex"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_the_same_on_any_default_device(part: str, elsewhere: None) -> None:
    there = PARTS[part]()
    torch.set_default_device(None)
    assert torch.equal(there, PARTS[part]())
