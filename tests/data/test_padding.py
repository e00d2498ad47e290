"""Masks and lists of sequences: what they become, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_padded import LENGTHS, padded

from gdconv.data.padding import blanked, note, stacked
from gdconv.data.problem import Problem
from gdconv.data.sources import load, load_npz
from gdconv.support.errors import InputError

MASK = np.array([[True, True, False], [False, True, False]])
X, Y = np.arange(12.0).reshape(2, 3, 2), np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "mask",
    [MASK, MASK.astype(int), MASK.astype(np.uint8), MASK.tolist(), torch.from_numpy(MASK)],
    ids=["bool", "int", "uint8", "list", "tensor"],
)
def test_padded_places_are_zero_whatever_the_mask_is_made_of(mask: Any) -> None:
    problem = Problem.from_arrays(X, Y, mask=mask)
    assert problem.mask is not None
    assert problem.mask.tolist() == MASK.tolist()
    assert torch.equal(problem.X[0], torch.from_numpy(X * MASK[..., None]))
    assert torch.equal(problem.y[0, ..., 0], torch.from_numpy(Y * MASK))
    assert problem.lengths.tolist() == [2, 1]
    assert problem.n == 3
    assert X[0, 2, 0] == 4.0  # the caller's array is left alone


@pytest.mark.parametrize("kind", ["array", "list", "tensor", "object", "float32", "integers"])
def test_what_stands_in_the_padding_is_never_looked_at(kind: str) -> None:
    tokens, targets = X.copy(), Y.copy()
    tokens[~MASK], targets[~MASK] = np.nan, np.inf
    given: dict[str, tuple[Any, Any]] = {
        "array": (tokens, targets),
        "list": (tokens.tolist(), targets.tolist()),
        "tensor": (torch.from_numpy(tokens), torch.from_numpy(targets).requires_grad_()),
        "float32": (tokens.astype(np.float32), targets.astype(np.float32)),
        "object": ([[[2**60, "x"]] * 3] * 2, targets.tolist()),
        "integers": (np.where(MASK[..., None], X, 2**60).astype(int), Y.astype(int)),
    }
    if kind == "object":
        whole = X.tolist()
        for i, k in np.argwhere(~MASK):
            whole[i][k] = [2**60, None]
        given["object"] = (whole, targets.tolist())
    problem = Problem.from_arrays(*given[kind], mask=MASK)
    assert torch.equal(problem.X, Problem.from_arrays(X, Y, mask=MASK).X)
    assert torch.equal(problem.y, Problem.from_arrays(X, Y, mask=MASK).y)
    with pytest.raises(InputError):
        Problem.from_arrays(*given[kind])


def test_a_mask_of_true_alone_is_none() -> None:
    problem = Problem.from_arrays(X, Y, mask=np.ones((2, 3), bool))
    assert problem.mask is None
    assert problem.notes == ()
    assert problem.lengths.tolist() == [3, 3]
    assert torch.equal(problem.real, torch.ones(2, 3, dtype=torch.bool))


def test_rows_and_their_places() -> None:
    problem = padded().problem
    values = torch.randn(2, 4, 5, 3, 2, dtype=torch.float64)
    rows = problem.rows(values)
    assert rows.shape == (2, sum(LENGTHS), 3, 2)
    assert torch.equal(problem.rows(problem.placed(rows)), rows)
    assert not problem.placed(rows)[:, ~problem.real].any()
    plain = Problem.from_arrays(X, Y)
    assert torch.equal(plain.rows(plain.y), plain.y.flatten(1, 2))
    assert torch.equal(plain.placed(plain.rows(plain.y)), plain.y)


def test_a_problem_keeps_its_mask() -> None:
    problem = Problem.from_arrays(X, Y, mask=MASK)
    both = Problem.stack([problem, problem.with_label_norm(3.0)])
    for p in (both, both[1], problem.to("cpu", torch.float32), problem.to()):
        assert p.mask is not None
        assert p.mask.tolist() == MASK.tolist()
    again = Problem.from_arrays(both.X, both.y, mask=np.stack([MASK, MASK]))
    assert again.R == 2
    assert again.mask is not None
    with pytest.raises(InputError, match="problems = different masks"):
        Problem.stack([problem, Problem.from_arrays(X, Y)])


def test_notes_speak_of_real_tokens_only() -> None:
    assert note(MASK).startswith("padding: 3 of 6 tokens are real, 1 to 2 per sample;")
    problem = Problem.from_arrays(X + 1, Y, mask=MASK)
    assert problem.notes == (note(MASK),)
    assert not problem.duplicate_tokens  # two places of zeros are no equal tokens
    text = problem.overparametrization_note(1)
    assert text is not None
    assert text.startswith("H D = 1 * 2 = 2 is below N n = 3")
    assert problem.overparametrization_note(2) is None
    cases: list[tuple[list[list[list[float]]], list[list[int]], str]] = [
        ([[[1.0], [1.0]], [[2.0], [3.0]]], [[1, 1], [1, 0]], "1 of 2 samples hold the same token"),
        (
            [[[9.0], [1.0]], [[1.0], [7.0]]],
            [[0, 1], [1, 0]],
            "Samples 0 and 1 hold the same tokens",
        ),
        ([[[0.0], [1.0]], [[2.0], [3.0]]], [[1, 0], [1, 1]], "Sample 0 is zero"),
    ]
    for tokens, mask, said in cases:
        twin = Problem.from_arrays(tokens, np.ones((2, 2)), mask=mask)
        assert twin.duplicate_tokens
        assert twin[0].duplicate_tokens
        assert any(line.startswith(said) for line in twin.notes)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ([[1, 1, 0], [0, 0, 0]], r"mask = no token of sample 1 is real: mark a real token by True"),
        (MASK[:, :2], r"mask = array of shape \(2, 2\): give shape \(2, 3\)"),
        (MASK[0], r"mask = array of shape \(3,\): give shape \(2, 3\)"),
        (MASK * 1.0, r"mask = array of type float64: give booleans"),
        (MASK * 2, r"mask = 2 at index \(0, 0\): give booleans"),
        (-1 * MASK, r"mask = -1 at index \(0, 0\): give booleans"),
        ([[1, 1, 0], [0]], r"mask = nested lists of unequal length: give booleans"),
        ("yes", r"mask = array of type <U3: give booleans"),
        (np.ma.masked_array(MASK, MASK), r"mask = a masked array: give booleans"),
    ],
)
def test_bad_masks(mask: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Problem.from_arrays(X, Y, mask=mask)


def test_masks_that_fit_no_tokens() -> None:
    with pytest.raises(InputError, match="mask = another one in another run"):
        Problem.from_arrays([X, X], [Y, Y], mask=[MASK, MASK[:, ::-1]])
    with pytest.raises(InputError, match=r"mask = array of shape \(2, 3\): give X of shape"):
        Problem.from_arrays(X[0], Y, mask=MASK)
    with pytest.raises(InputError, match="y = array of shape"):
        Problem.from_arrays(X, Y[:1], mask=MASK)
    with pytest.raises(InputError, match="X = a masked array"):
        Problem.from_arrays(np.ma.masked_array(X, X > 3), Y, mask=MASK)
    with pytest.raises(InputError, match="X = nan at index"):
        Problem.from_arrays(X * np.nan, Y, mask=MASK)


def test_a_list_of_sequences_is_padded() -> None:
    data = padded()
    for wrap in (lambda v: v, list, tuple, torch.from_numpy):
        tokens, targets = [wrap(x) for x in data.sequences], [wrap(y) for y in data.targets]
        made, y, mask = stacked(tokens, targets)
        assert made.shape == (4, 4, 5)
        assert y.shape == (4, 4, 2)
        assert mask.tolist() == [[k < n for k in range(4)] for n in LENGTHS]
        assert np.array_equal(made[mask], np.concatenate(data.sequences))
        assert np.array_equal(y[mask], np.concatenate(data.targets))
        assert not made[~mask].any()
    labels = [1.0, 2.0, 3.0, 4.0]
    assert stacked(data.sequences, labels)[1] is labels
    for plain in (X, X.tolist(), list(X), torch.from_numpy(X), [[1.0, 2.0], [3.0]], []):
        assert stacked(plain, Y, MASK)[0] is plain


def test_sequences_that_make_no_batch() -> None:
    one, two = np.ones((1, 2)), np.ones((2, 2))
    for tokens, targets, mask, sentence in [
        ([one, two], [[1.0], [1.0, 2.0]], MASK, "mask = array of shape .*: leave it out: X is"),
        ([one, two[:0]], [[1.0], []], None, "X = a sequence without tokens, sample 1: leave that"),
        ([one, two], [[1.0], [1.0]], None, "y = 1 targets for sample 1: give 2, one per token"),
        ([one, two], [[1.0]], None, "y = targets of 1 samples: give 2"),
        ([one, two[:, :1]], [[1.0], [1.0, 2.0]], None, r"X of sample 1 = .*: give shape \(2, 2\)"),
        ([one, two * np.nan], [[1.0], [1.0, 2.0]], None, "X of sample 1 = nan at index"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            stacked(tokens, targets, mask)


def test_a_file_may_hold_a_mask(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, X=X * np.where(MASK, 1, np.nan)[..., None], y=Y, mask=MASK)
    problem = load_npz(file)
    assert torch.equal(problem.X, Problem.from_arrays(X, Y, mask=MASK).X)
    assert problem.mask is not None
    assert problem.mask.tolist() == MASK.tolist()
    first = load(file, samples=1)
    assert first.mask is not None
    assert first.mask.tolist() == MASK[:1].tolist()
    labelled = load(file, per_sample=True)
    assert labelled.y.flatten().tolist() == [0.5, 4.0]
    assert labelled.lengths.tolist() == [2, 1]
    np.savez(file, X=X, y=Y, mask=MASK[:1])
    for samples in (None, 1):
        with pytest.raises(InputError, match=r"mask of mine.npz = array of shape \(1, 3\): give"):
            load(file, samples=samples)
    np.savez(file, X=X, y=Y, mask=MASK, Mask=MASK)
    with pytest.raises(InputError, match="Mask"):
        load_npz(file)


def test_blanked_returns_what_needs_no_zeros() -> None:
    for mask in (None, np.ones((2, 3), bool)):
        tokens, targets, real = blanked(X, Y, mask)
        assert tokens is X
        assert targets is Y
        assert real is None
    labels = np.ones(2)
    assert blanked(X, labels, MASK)[1] is labels
