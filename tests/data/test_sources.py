"""Sources of data: reproducible draws, documented targets, files refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gdconv.data import sources as data
from gdconv.data.draws import whole
from gdconv.support.errors import InputError

# Gaussian ---------------------------------------------------------------------------------------


def test_gaussian_is_reproducible_and_normal():
    problem = data.gaussian(50, 4, 30, outputs=2, seed=3)
    again = data.gaussian(50, 4, 30, outputs=2, seed=3)
    other = data.gaussian(50, 4, 30, outputs=2, seed=4)
    assert np.array_equal(problem.X, again.X)
    assert np.array_equal(problem.y, again.y)
    assert not np.array_equal(problem.X, other.X)
    assert abs(float(problem.X.mean())) < 4 / np.sqrt(problem.X.numel())
    assert abs(float(problem.X.var()) - 1) < 4 * np.sqrt(2 / problem.X.numel())


def test_gaussian_does_not_share_the_stream_of_weights():
    """Weights drawn from default_rng(seed) must not repeat the data."""
    weights = np.random.default_rng(0).standard_normal((8, 2, 16))
    assert not np.isin(np.asarray(data.gaussian(8, 2, 16, seed=0).X), weights).any()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"samples": 0}, "samples"),
        ({"tokens": -1}, "tokens"),
        ({"embedding": 0}, "embedding"),
        ({"outputs": 0}, "outputs"),
        ({"seed": -1}, "seed"),
        ({"samples": 10**9}, "samples"),
    ],
)
def test_gaussian_sizes(change, field):
    with pytest.raises(InputError) as caught:
        data.gaussian(**({"samples": 2, "tokens": 2, "embedding": 4} | change))
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["samples", "tokens", "embedding", "outputs"])
@pytest.mark.parametrize("source", ["gaussian", "orthonormal"])
def test_data_larger_than_memory_name_the_size_that_makes_them_so(source, field):
    if source == "orthonormal" and field in ("samples", "tokens"):
        field = "embedding"  # it is at least the number of tokens
    with pytest.raises(InputError, match=rf"^{field} = {10**12}: make the problem smaller"):
        data.load(source, **{"samples": 2, "tokens": 2, field: 10**12})


@pytest.mark.parametrize("value", [True, 2.0, "2", None, float("nan")])
def test_sizes_are_whole_numbers(value):
    with pytest.raises(InputError, match="samples = .*whole number of at least 1"):
        whole("samples", value)
    assert whole("samples", np.int64(2)) == 2


# Digits -----------------------------------------------------------------------------------------


def matched(problem, tokens):
    """Indices of the images a digits problem was made of, found by comparing pixels."""
    pixels = load_digits().images.reshape(1797, -1) / 16
    centred = pixels - pixels.mean(axis=0)
    X = np.asarray(problem.X[0]).reshape(problem.N, -1)
    found = []
    for sample in X:
        cosine = centred @ sample / np.linalg.norm(centred, axis=1) / np.linalg.norm(sample)
        assert cosine.max() > 1 - 1e-12
        found.append(int(cosine.argmax()))
    return found


@pytest.mark.parametrize("tokens", [1, 2, 4, 8])
def test_digits_are_the_digits(tokens):
    problem = data.digits(40, tokens, seed=1)
    images = matched(problem, tokens)
    assert len(set(images)) == 40  # without replacement
    assert (problem.N, problem.n, problem.D, problem.D_y) == (40, tokens, 64 // tokens, 1)
    assert float(problem.X.square().sum(-1).mean()) == pytest.approx(4.0, abs=1e-12)
    expected = (load_digits().target[images] - 4.5) / np.sqrt(8.25)
    assert np.allclose(problem.y[0, :, :, 0], expected[:, None], atol=1e-15)
    assert not problem.duplicate_tokens


def test_one_factor_for_all_tokens():
    """Pixels keep their relative sizes: every sample is scaled by the same number."""
    problem = data.digits(10, 2)
    pixels = load_digits().images.reshape(1797, -1) / 16
    centred = (pixels - pixels.mean(axis=0))[matched(problem, 2)]
    factors = np.linalg.norm(np.asarray(problem.X[0]).reshape(10, -1), axis=1)
    factors /= np.linalg.norm(centred, axis=1)
    assert np.ptp(factors) < 1e-12


@pytest.mark.parametrize("tokens", [2, 4, 8])
def test_ink_is_that_of_the_next_strip(tokens):
    problem = data.digits(20, tokens, target="ink", seed=2)
    strips = load_digits().images.reshape(1797, tokens, -1).mean(axis=-1)
    score = (strips - strips.mean(axis=0)) / strips.std(axis=0)
    score = score[matched(problem, tokens)]
    target = np.asarray(problem.y[0, :, :, 0])
    for k in range(tokens):
        assert np.allclose(target[:, k], score[:, (k + 1) % tokens], atol=1e-12)
    assert not np.allclose(target, score)  # the control: it is not the strip's own ink


def test_digits_are_reproducible_and_seeded():
    assert np.array_equal(data.digits(8, 2, seed=5).X, data.digits(8, 2, seed=5).X)
    assert not np.array_equal(data.digits(8, 2, seed=5).X, data.digits(8, 2, seed=6).X)


def test_images_left_out_are_counted():
    images = load_digits().images.reshape(1797, 8, 8)
    bad = sum(
        len(np.unique(image, axis=0)) < 8 or bool((np.ptp(image, axis=1) == 0).any())
        for image in images
    )
    assert bad > 0
    with pytest.raises(InputError, match=f"at most {1797 - bad}"):
        data.digits(1797, 8)
    problem = data.digits(1797 - bad, 8)
    assert not problem.duplicate_tokens  # so no image was drawn twice
    assert any(note.startswith(f"{bad} of 1797 images left out") for note in problem.notes)
    assert not any("left out" in note for note in data.digits(4, 2).notes)


def test_filter_finds_planted_strips():
    strips = np.random.default_rng(0).random((4, 3, 5))
    strips[1, 2] = strips[1, 0]
    strips[3, 1] = 0.25
    assert data._distinct_and_varied(strips).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((8, 3), "tokens"),
        ((8, True), "tokens"),
        ((0, 2), "samples"),
        ((8, 2, "colour"), "target"),
        ((8, 1, "ink"), "tokens"),
        ((1798, 2), "samples"),
    ],
)
def test_digits_bad_input(arguments, field):
    with pytest.raises(InputError) as caught:
        data.digits(*arguments)
    assert caught.value.field == field


# Files ------------------------------------------------------------------------------------------

X = np.random.default_rng(0).standard_normal((3, 2, 4))
y = np.random.default_rng(1).standard_normal((3, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("outputs", [None, 3])
def test_npz_round_trip(tmp_path, save, outputs):
    targets = y if outputs is None else np.stack([y] * outputs, axis=-1)
    save(tmp_path / "mine.npz", X=np.asfortranarray(X), y=targets)
    problem = data.load_npz(tmp_path / "mine.npz")
    assert np.array_equal(problem.X[0], X)
    assert np.array_equal(problem.y[0], targets.reshape(3, 2, -1))
    assert problem.name == "mine.npz"


def test_errors_name_the_file_and_the_array(tmp_path):
    np.savez(tmp_path / "bad.npz", X=X[0], y=y)
    with pytest.raises(InputError, match=r"X of bad.npz = array of shape \(2, 4\)"):
        data.load_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", X=np.where(X[1, 0, 2] == X, np.nan, X), y=y)
    with pytest.raises(InputError, match=r"X of bad.npz = nan at index \(1, 0, 2\)"):
        data.load_npz(tmp_path / "bad.npz")


def test_one_data_set_per_file(tmp_path):
    np.savez(tmp_path / "two.npz", X=np.stack([X, X]), y=np.stack([y, y]))
    with pytest.raises(InputError, match="X of two.npz = .*one data set per file"):
        data.load_npz(tmp_path / "two.npz")
    np.savez(tmp_path / "one.npz", X=X[None], y=y[None])
    assert data.load_npz(tmp_path / "one.npz").R == 1


# Dispatch ---------------------------------------------------------------------------------------


def test_load_dispatches(tmp_path):
    np.savez(tmp_path / "mine.NPZ.npz", X=X, y=y)
    assert data.load("gaussian").name == "gaussian"
    assert tuple(data.load("gaussian", 3, 4, 5, outputs=2).y.shape) == (1, 3, 4, 2)
    assert tuple(data.load("digits").X.shape) == (1, 8, 2, 32)
    assert data.load("digits", 4, 4, 16, target="ink").D == 16
    assert data.load(str(tmp_path / "mine.NPZ.npz"), tokens=2, embedding=4).N == 3


def test_load_first_samples_of_a_file(tmp_path):
    path = str(tmp_path / "mine.npz")
    np.savez(path, X=X, y=y)
    problem = data.load(path, samples=2)
    assert np.array_equal(problem.X[0], X[:2])
    assert problem.notes == ("The first 2 of 3 samples of mine.npz are used.",)
    assert data.load(path, samples=3).notes == ()
    with pytest.raises(InputError, match="samples = 4: give at most 3"):
        data.load(path, samples=4)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_first_samples_are_cut_before_anything_is_computed(tmp_path, per_sample):
    """And what is said of them stays said: the type, and what their numbers are."""
    path = str(tmp_path / "mine.npz")
    np.savez(path, X=X.astype(np.float32), y=y)
    notes = data.load(path, samples=2, per_sample=per_sample).notes
    assert "The first 2 of 3 samples of mine.npz are used." in notes
    assert "X came as float32 and was converted to float64." in notes
    np.savez(path, X=X[None], y=y[None])
    assert np.array_equal(data.load(path, samples=2, per_sample=per_sample).X[0], X[:2])
    np.savez(path, X=X, y=y[:2])  # labels of two samples for three
    with pytest.raises(InputError, match=r"y of mine\.npz = array of shape \(2, 2\)"):
        data.load(path, samples=2, per_sample=per_sample)


@pytest.mark.parametrize(
    "shape", [(8_000_000, 1, 1), (23_171, 1, 1), (1, 23_171, 1), (11_586, 2, 1)]
)
def test_more_samples_than_any_matrix_over_them_has_rows(tmp_path, monkeypatch, shape):
    np.savez(tmp_path / "mine.npz", X=np.zeros(shape, np.int8), y=np.zeros(shape[:2], np.int8))
    monkeypatch.setattr(data.Problem, "from_arrays", None)  # looking at them would fail loudly
    with pytest.raises(InputError, match=f"samples = {shape[0]}: give fewer, with --samples: a m"):
        data.load(str(tmp_path / "mine.npz"))
    with pytest.raises(InputError, match=f"samples = {shape[0]}: give fewer"):
        data.load(str(tmp_path / "mine.npz"), per_sample=True)
    monkeypatch.undo()
    data.require_rows(np.zeros((23_170, 1, 1)))
    if shape[0] > 1:
        assert data.load(str(tmp_path / "mine.npz"), samples=5).N == 5


def test_replicas_count():
    data.require_rows(np.zeros((2, 16_384, 1, 1)))
    with pytest.raises(InputError, match="samples = 16385: .* would take 4 GiB, more than 4"):
        data.require_rows(np.zeros((2, 16_385, 1, 1)))
    for odd in (np.zeros(3), np.zeros((0, 2, 3)), np.zeros((1, 1, 1, 0, 2))):
        data.require_rows(odd)  # refused elsewhere, with their shape


def test_name_too_long_for_a_file():
    with pytest.raises(InputError, match="no such file"):
        data.load("x" * 300 + ".npz")


@pytest.mark.parametrize("name", ["mnist", "", "data.csv", "Gaussian"])
def test_unknown_data(name):
    with pytest.raises(InputError, match="give gaussian, orthonormal, digits, an .npz file or"):
        data.load(name)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"data": "digits", "embedding": 16}, "embedding"),
        ({"data": "file", "tokens": 3}, "tokens"),
        ({"data": "file", "embedding": 5}, "embedding"),
        ({"data": "digits", "tokens": 0}, "tokens"),
    ],
)
def test_sizes_that_the_data_do_not_have(tmp_path, arguments, field):
    if arguments["data"] == "file":
        np.savez(tmp_path / "mine.npz", X=X, y=y)
        arguments = arguments | {"data": str(tmp_path / "mine.npz")}
    with pytest.raises(InputError) as caught:
        data.load(**arguments)
    assert caught.value.field == field


# One label per sample --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 1, None), (2, 3, 9), (3, 2, 6)])
def test_orthonormal_tokens_over_all_samples(sizes):
    N, n, D = sizes
    problem = data.orthonormal(N, n, D, seed=4)
    assert (D or N * n) == problem.D
    rows = np.asarray(problem.X[0]).reshape(N * n, -1)
    assert np.abs(rows @ rows.T - np.eye(N * n)).max() < 1e-14
    assert np.array_equal(problem.X, data.orthonormal(N, n, D, seed=4).X)
    assert not np.array_equal(problem.y, data.orthonormal(N, n, D, seed=5).y)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((2, 2, 3), "embedding"),
        ((0, 2), "samples"),
        ((2, -1), "tokens"),
        ((10**5, 10**3), "samples"),
    ],
)
def test_orthonormal_bad_input(arguments, field):
    with pytest.raises(InputError) as caught:
        data.orthonormal(*arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["gaussian", "orthonormal", "digits"])
def test_labels_per_sample_are_the_mean_over_tokens(name):
    one = data.load(name, 3, 2, per_sample=True)
    many = data.load(name, 3, 2)
    assert tuple(one.y.shape) == (1, 3, 1, 1)
    assert np.array_equal(one.X, many.X)
    assert np.allclose(one.y, many.y.mean(2, keepdim=True), atol=1e-15)
    assert one.notes == many.notes
    assert not one.duplicate_tokens


@pytest.mark.parametrize("samples", [None, 2])
def test_labels_per_sample_of_a_file_are_kept_bit_by_bit(tmp_path, samples):
    tokens = np.random.default_rng(0).standard_normal((50, 3, 4))
    labels = np.random.default_rng(1).standard_normal(50)
    np.savez(tmp_path / "one.npz", X=tokens, y=labels)
    problem = data.load(str(tmp_path / "one.npz"), samples, per_sample=True)
    assert np.array_equal(problem.y.flatten(), labels[: samples or 50])
    with pytest.raises(InputError, match="y of one.npz = .*one target per token"):
        data.load(str(tmp_path / "one.npz"))
