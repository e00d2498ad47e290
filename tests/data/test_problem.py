"""gdconv.data.problem: what is accepted is copied exactly, what is not is named."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from gdconv.data.problem import Problem
from gdconv.support.errors import InputError

X = np.arange(24.0).reshape(3, 2, 4)
y = np.arange(6.0).reshape(3, 2)


def with_entry(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def softmax_features(X, seed, heads=3, width=2):
    """B = [B^(1) ... B^(H)], written independently of the library, for one replica."""
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(heads):
        W_Q, W_K = rng.standard_normal((2, X.shape[2], width))
        scores = np.einsum("ikd,ijd->ikj", X @ W_Q, X @ W_K) / np.sqrt(width)
        S = np.exp(scores - scores.max(axis=-1, keepdims=True))
        blocks.append((S / S.sum(axis=-1, keepdims=True)) @ X)
    return np.concatenate(blocks, axis=-1).reshape(-1, heads * X.shape[2])


# What is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch", "lists", "integers", "replicas"])
def test_values_survive_exactly(kind):
    given_X, given_y = {
        "numpy": (X, y),
        "torch": (torch.tensor(X, requires_grad=True), torch.tensor(y)),
        "lists": (X.tolist(), y.tolist()),
        "integers": (X.astype(np.int32), y.astype(np.uint8)),
        "replicas": (X[None], y[None, ..., None]),
    }[kind]
    problem = Problem.from_arrays(given_X, given_y)
    assert problem.X.dtype == problem.y.dtype == torch.float64
    assert tuple(problem.X.shape) == (1, 3, 2, 4)
    assert tuple(problem.y.shape) == (1, 3, 2, 1)
    assert np.array_equal(problem.X[0], X)
    assert np.array_equal(problem.y[0, ..., 0], y)
    assert problem.notes == ()
    assert not problem.X.requires_grad


def test_sizes_and_several_outputs():
    problem = Problem.from_arrays(np.stack([X, X + 1]), np.ones((2, 3, 2, 5)))
    assert (problem.R, problem.N, problem.n, problem.D, problem.D_y) == (2, 3, 2, 4, 5)
    assert len(problem) == 2


@pytest.mark.parametrize("source", ["numpy", "torch"])
def test_no_memory_is_shared(source):
    mine = X.copy() if source == "numpy" else torch.tensor(X)
    problem = Problem.from_arrays(mine, y)
    mine[0, 0, 0] = 99.0
    assert problem.X[0, 0, 0, 0] == 0.0


def test_float32_is_converted_and_said():
    problem = Problem.from_arrays(X.astype(np.float32) / 3, y)
    assert problem.notes == ("X came as float32 and was converted to float64.",)
    assert np.array_equal(problem.X[0], (X.astype(np.float32) / 3).astype(np.float64))


@given(hnp.arrays(np.float64, st.tuples(*[st.integers(1, 4)] * 3), elements=st.floats(-1e9, 1e9)))
def test_round_trip_over_shapes(tokens):
    problem = Problem.from_arrays(tokens, tokens[..., 0])
    assert np.array_equal(problem.X[0], tokens)
    assert np.array_equal(problem.y[0, ..., 0], tokens[..., 0])


# What is not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "bad_X", "bad_y", "said"),
    [
        ("X", X[0], y, r"shape \(2, 4\): give shape \(N, n, D\)"),
        ("X", np.ones((1, 1, 3, 2, 4)), y, r"give shape \(N, n, D\)"),
        ("X", 3.0, y, r"give shape \(N, n, D\)"),
        ("X", X[:0], y[:0], "at least one entry along samples"),
        ("X", X[:, :0], y[:, :0], "at least one entry along tokens"),
        ("X", X[..., :0], y, "at least one entry along embedding"),
        ("X", X[None][:0], y, "at least one replica"),
        ("y", X, y[:2], r"shape \(2, 2\): .* \(N, n\) = \(3, 2\) or \(3, 2, D_y\)"),
        ("y", X, y[:, :1], r"shape \(3, 1\): .* \(3, 2\)"),
        ("y", X, y[:, 0], r"shape \(3,\): give one target per token"),
        ("y", X, np.ones((3, 2, 0)), "at least one number per target"),
        ("y", np.stack([X, X]), y, r"\(R, N, n\) = \(2, 3, 2\)"),
        ("X", X.astype(object), y, "type object"),
        ("X", X.astype(str), y, "type <U"),
        ("y", X, y.astype(complex), "type complex128"),
        ("y", X, y > 1, "type bool"),
        ("y", X, torch.tensor(y) > 1, "type torch.bool"),
        ("X", torch.tensor(X).to_sparse(), y, "dense"),
        ("X", [[[1.0]], [[1.0], [2.0]]], y, "unequal length"),
        ("X", np.ma.masked_less(X, 1), y, "masked"),
        ("X", with_entry(X, (1, 0, 2), np.nan), y, r"nan at index \(1, 0, 2\)"),
        ("X", with_entry(X, (2, 1, 3), -np.inf), y, r"-inf at index \(2, 1, 3\)"),
        ("y", X, with_entry(y, (2, 0), np.inf), r"inf at index \(2, 0\)"),
        ("y", X[None], with_entry(y[None], (0, 1, 1), np.nan), r"nan at index \(0, 1, 1\)"),
        ("X", with_entry(X, (0, 0, 0), 1e200), y, r"1e\+200 at index .*rescale"),
    ],
)
def test_bad_input_is_named(field, bad_X, bad_y, said):
    with pytest.raises(InputError, match=said) as caught:
        Problem.from_arrays(bad_X, bad_y)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} = ")
    assert "\n" not in str(caught.value)


# Degenerate data --------------------------------------------------------------------------------


def duplicate_in_sample():
    tokens = np.random.default_rng(0).standard_normal((3, 3, 8))
    tokens[1, 2] = tokens[1, 0]
    return tokens


def permuted_sample():
    tokens = np.random.default_rng(1).standard_normal((3, 3, 8))
    tokens[2] = tokens[0, [1, 2, 0]]
    return tokens


def signed_zero():
    tokens = np.random.default_rng(2).standard_normal((2, 2, 8))
    tokens[0, 0, 3], tokens[0, 1] = 0.0, tokens[0, 0]
    tokens[0, 1, 3] = -0.0
    return tokens


def single_zero_token():
    tokens = np.random.default_rng(3).standard_normal((3, 1, 8))
    tokens[1] = 0.0
    return tokens


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (duplicate_in_sample, "1 of 3 samples hold the same token twice (first: sample 1)"),
        (permuted_sample, "Samples 0 and 2 hold the same tokens"),
        (signed_zero, "1 of 2 samples hold the same token twice"),
        (single_zero_token, "Sample 1 is zero"),
    ],
)
def test_degenerate_data_are_said_and_singular(make, said):
    tokens = make()
    problem = Problem.from_arrays(tokens, tokens[..., 0])
    assert problem.duplicate_tokens
    assert said in problem.notes[0]
    assert "sigma_min(B) = 0 exactly" in problem.notes[0]
    for seed in range(3):
        values = np.linalg.svd(softmax_features(tokens, seed), compute_uv=False)
        assert values[-1] <= 1e-13 * values[0]


@pytest.mark.parametrize("zero_token", [False, True])
def test_sound_data_are_not_accused(zero_token):
    """The control: one zero token among others leaves B with full rank, and nothing is said."""
    tokens = np.random.default_rng(4).standard_normal((3, 3, 8))
    if zero_token:
        tokens[1, 2] = 0.0
    problem = Problem.from_arrays(tokens, tokens[..., 0])
    assert not problem.duplicate_tokens
    assert problem.notes == ()
    assert np.linalg.svd(softmax_features(tokens, 0), compute_uv=False)[-1] > 1e-4


def test_overparametrization():
    tokens = np.random.default_rng(5).standard_normal((5, 2, 4))
    problem = Problem.from_arrays(tokens, tokens[..., 0])
    assert problem.overparametrization_note(heads=3) is None
    note = problem.overparametrization_note(heads=2)
    assert note is not None
    assert "H D = 2 * 4 = 8 is below N n = 10" in note
    assert "at least 3 heads" in note
    features = softmax_features(np.random.default_rng(5).standard_normal((5, 2, 4)), 0, heads=2)
    assert np.linalg.matrix_rank(features) <= 8


def test_tokens_in_a_subspace():
    rng = np.random.default_rng(6)
    tokens = rng.standard_normal((3, 2, 2)) @ rng.standard_normal((2, 8))
    note = Problem.from_arrays(tokens, tokens[..., 0]).overparametrization_note(heads=2)
    assert note is not None
    assert "span only 2 of 8 dimensions" in note
    assert np.linalg.matrix_rank(softmax_features(tokens, 0, heads=2)) < 6


# Replicas ---------------------------------------------------------------------------------------


def test_stack_and_take_apart():
    sound = Problem.from_arrays(X, y, name="a", notes=["Shared."])
    twice = Problem.from_arrays(with_entry(X, (0, 1), X[0, 0]), y, notes=["Shared."])
    both = Problem.stack([sound, twice])
    assert both.R == 2
    assert both.name == "a"
    assert both.duplicate_tokens
    assert both.notes[0] == "Shared."
    assert both.notes[1].startswith("run 1: 1 of 3 samples")
    assert both[0].notes == ("Shared.",)
    assert not both[0].duplicate_tokens
    assert both[1].notes == twice.notes
    assert both[-1].notes == twice.notes
    assert both[1].duplicate_tokens
    assert torch.equal(both[1].X, twice.X)
    assert [one.R for one in both] == [1, 1]


def test_stack_refuses_different_shapes_and_none():
    one = Problem.from_arrays(X, y)
    with pytest.raises(InputError, match="stack only equal"):
        Problem.stack([one, Problem.from_arrays(X[:2], y[:2])])
    with pytest.raises(InputError, match="at least one problem"):
        Problem.stack([])


def test_shapes_are_checked_at_run_time():
    """The control of tests/conftest.py: its import hook is alive."""
    with pytest.raises(TypeCheckError, match="R N"):
        Problem(X=torch.zeros(2), y=torch.zeros(1, 2, 2, 1))
    with pytest.raises(TypeCheckError):
        Problem(X=torch.zeros(1, 2, 2, 3), y=torch.zeros(1, 9, 2, 1))


def test_to_float32_rounds():
    problem = Problem.from_arrays(X / 3, y).to(dtype=torch.float32)
    assert problem.X.dtype == problem.y.dtype == torch.float32
    assert problem.to().X.dtype == torch.float32


# One label per sample ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_labels_per_sample_are_kept_bit_by_bit(n):
    rng = np.random.default_rng(n)
    tokens, labels = rng.standard_normal((2, 40, n, 3)), rng.standard_normal((2, 40))
    for given_y in (labels, labels[..., None, None]):  # as given, and as stored
        problem = Problem.per_sample(tokens, given_y)
        assert tuple(problem.y.shape) == (2, 40, 1, 1)
        assert np.array_equal(problem.y[..., 0, 0], labels)
    per_token = rng.standard_normal((2, 40, n))
    assert np.allclose(Problem.per_sample(tokens, per_token).y[..., 0, 0], per_token.mean(-1))


@pytest.mark.parametrize(
    ("given_X", "given_y", "message"),
    [
        (X, np.ones(2), "y = .*one label per sample"),
        (X, np.ones((3, 2, 2)), "y = 2 outputs: give one label per sample"),
        (X, np.ones((3, 3)), "y = array of shape"),
        ([[[1.0], [1.0, 2.0]]], [1.0], "X = nested lists of unequal length"),
        (np.ma.masked_array(X, X > 3), np.ones(3), "X = a masked array"),
        (X, [1.0, np.nan, 2.0], "y = nan at index"),
    ],
)
def test_labels_per_sample_bad_input(given_X, given_y, message):
    with pytest.raises(InputError, match=message):
        Problem.per_sample(given_X, given_y)


def test_equal_tokens_say_nothing_of_labels_per_sample():
    twice = np.ones((2, 2, 3))
    assert Problem.from_arrays(twice, np.ones((2, 2))).duplicate_tokens
    made = Problem.per_sample(twice, [1.0, 2.0], notes=("kept",))
    assert not made.duplicate_tokens
    assert made.notes == ("kept",)


@pytest.mark.parametrize("norm", [1e-30, 1.0, 1e30])
def test_label_norm(norm):
    rng = np.random.default_rng(0)
    problem = Problem.from_arrays(rng.standard_normal((2, 3, 2, 4)), rng.standard_normal((2, 3, 2)))
    made = problem.with_label_norm(norm)
    assert made.y.flatten(1).norm(dim=1).tolist() == pytest.approx([norm] * 2, rel=1e-14)
    assert torch.equal(made.X, problem.X)
    ratio = made.y / problem.y
    assert torch.allclose(ratio, ratio[:, :1, :1], rtol=1e-14)  # one factor per run
    with pytest.raises(InputError, match="the labels are zero"):
        Problem.per_sample(X, np.zeros(3)).with_label_norm(norm)
