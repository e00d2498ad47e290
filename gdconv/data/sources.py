"""Where problems come from: Gaussian noise, the UCI digits, a user's .npz file or MNIST folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from gdconv.data.draws import TOKEN_NORM_SQUARED, digit_images, stream, whole
from gdconv.data.problem import Problem
from gdconv.support.errors import InputError, quoted
from gdconv.support.npz import LARGEST_BYTES, read_arrays

CHOICES = "give gaussian, orthonormal, digits, an .npz file or a folder with MNIST's IDX files"


def load(
    data: str | Path,
    samples: int | None = None,
    tokens: int | None = None,
    embedding: int | None = None,
    outputs: int = 1,
    target: str = "digit",
    seed: int = 0,
    per_sample: bool = False,
) -> Problem:
    """The problem that `--data` names.

    Args:
        data: "gaussian", "orthonormal", "digits", a path that ends in .npz, or a folder with MNIST.
        samples: N; None means 8, or every sample of a file. A file with more gives its first N.
        tokens: n; None means 2, or what the file has.
        embedding: D; None means 16 for gaussian, 64/n for digits, or what the file has.
        outputs: D_y, gaussian only.
        target: "digit" or "ink", digits only.
        seed: Seed of what is drawn; a file draws nothing.
        per_sample: One label per sample, the mean over its tokens, instead of one per token.

    Returns:
        A problem with R = 1.

    Raises:
        InputError: Unknown name, or a size that the data cannot have.

    Example:
        >>> problem = load("digits", samples=4, tokens=2)
        >>> tuple(problem.X.shape), tuple(problem.y.shape)
        ((1, 4, 2, 32), (1, 4, 2, 1))
        >>> load("imagenet")
        Traceback (most recent call last):
        gdconv.support.errors.InputError: data = imagenet: give gaussian, orthonormal, digits, an
        .npz file or a folder with MNIST's IDX files.
    """
    stored = str(data).lower().endswith(".npz")
    if per_sample and not stored:
        made = load(data, samples, tokens, embedding, 1, target, seed)
        labelled = Problem.per_sample(made.X[0], made.y[0], made.name)
        return replace(labelled, notes=made.notes, duplicate_tokens=False)
    if data == "orthonormal":
        sizes = (2 if samples is None else samples, 2 if tokens is None else tokens)
        return orthonormal(*sizes, embedding, outputs, seed)
    if data == "gaussian":
        sizes = (8 if samples is None else samples, 2 if tokens is None else tokens)
        return gaussian(*sizes, 16 if embedding is None else embedding, outputs, seed)
    if data == "digits":
        problem = digits(
            8 if samples is None else samples, 2 if tokens is None else tokens, target, seed
        )
        return _of_size(problem, "digits", None, embedding)
    if stored:
        problem = load_npz(data, per_sample, samples)
        return _of_size(problem, Path(data).name, tokens, embedding)
    if data and os.path.isdir(data):
        return _of_size(_mnist(data, samples, tokens, target, seed), str(data), None, embedding)
    raise InputError("data", data, CHOICES)


def gaussian(samples: int, tokens: int, embedding: int, outputs: int = 1, seed: int = 0) -> Problem:
    """Independent standard normal tokens and targets: X_ijk, y_ija ~ N(0, 1).

    Args:
        samples: N.
        tokens: n.
        embedding: D.
        outputs: D_y.
        seed: Seed; the same seed gives the same numbers on every machine.

    Returns:
        A problem with R = 1, X (1, N, n, D), y (1, N, n, D_y).

    Raises:
        InputError: A size below 1, a negative seed, or more than `LARGEST_BYTES`.

    Example:
        >>> problem = gaussian(samples=3, tokens=2, embedding=4, seed=1)
        >>> problem.N, problem.n, problem.D, problem.D_y
        (3, 2, 4, 1)
    """
    sizes = {"samples": samples, "tokens": tokens, "embedding": embedding, "outputs": outputs}
    N, n, D, D_y = (whole(field, value) for field, value in sizes.items())
    _require_room(8 * N * n * (D + D_y), sizes)
    rng = stream("gaussian", seed)
    return Problem.from_arrays(
        rng.standard_normal((N, n, D)), rng.standard_normal((N, n, D_y)), name="gaussian"
    )


def orthonormal(
    samples: int, tokens: int, embedding: int | None = None, outputs: int = 1, seed: int = 0
) -> Problem:
    """Tokens that are orthonormal over all samples, standard normal targets.

    The easiest data of Wu et al.: X_i X_i'^T = 0 for two samples, |X_i|_2 = 1.

    Args:
        samples: N.
        tokens: n.
        embedding: D, at least N n; None means N n.
        outputs: D_y.
        seed: Seed.

    Returns:
        A problem with R = 1.

    Raises:
        InputError: D < N n, or a size below 1.

    Example:
        >>> rows = orthonormal(2, 2, 5).X[0].flatten(0, 1)
        >>> bool(((rows @ rows.T).diagonal() - 1).abs().max() < 1e-12)
        True
    """
    N, n = whole("samples", samples), whole("tokens", tokens)
    D = N * n if embedding is None else whole("embedding", embedding)
    if N * n > D:
        raise InputError("embedding", D, f"give at least N n = {N * n} for orthonormal tokens")
    D_y = whole("outputs", outputs)
    given = {} if embedding is None else {"embedding": D}  # N n is nobody's choice
    sizes = {"samples": N, "tokens": n, "outputs": D_y} | given
    _require_room(8 * N * n * max(D, D_y), sizes)
    rng = stream("orthonormal", seed)
    rows = np.linalg.qr(rng.standard_normal((D, N * n)))[0].T
    y = rng.standard_normal((N, n, D_y))
    return Problem.from_arrays(rows.reshape(N, n, D), y, name="orthonormal")


def digits(samples: int, tokens: int, target: str = "digit", seed: int = 0) -> Problem:
    """UCI handwritten digits (8 x 8 pixels, as scikit-learn carries them), strips as tokens.

    A token is a strip of 8/n pixel rows, D = 64/n: pixels over 16, minus that pixel's mean over all
    1797 images, times one factor so that the mean squared token norm over the chosen images is 4.
    Targets, one per token:

    - "digit": (digit - 4.5)/sqrt(8.25) at every token, a digit's standard score if all ten are
      equally frequent: which digit is this a strip of?
    - "ink": the mean ink of the next strip (the first follows the last), standardised over all
      images strip by strip: how dark does the image go on? It needs n >= 2.

    Images with two equal strips or a constant strip are left out, and a note says how many: equal
    tokens make rows of B equal. The draw is without replacement.

    Args:
        samples: N, how many images.
        tokens: n, one of 1, 2, 4, 8.
        target: "digit" or "ink".
        seed: Seed of the draw.

    Returns:
        A problem with R = 1 and D_y = 1.

    Raises:
        InputError: More samples than images, another number of strips, or an unknown target.

    Example:
        >>> problem = digits(samples=8, tokens=2)
        >>> round(float(problem.X.square().sum(-1).mean()), 12)
        4.0
    """
    N = whole("samples", samples)
    if whole("tokens", tokens) not in (1, 2, 4, 8):
        raise InputError("tokens", tokens, "give 1, 2, 4 or 8 strips of the 8 pixel rows")
    if target not in ("digit", "ink"):
        raise InputError("target", target, "give digit or ink")
    if target == "ink" and tokens == 1:
        raise InputError(
            "tokens", tokens, "give 2, 4 or 8 for ink, which is that of the next strip"
        )
    images, labels = digit_images()
    strips = images.reshape(len(images), tokens, -1)
    usable = np.flatnonzero(_distinct_and_varied(strips))
    if len(usable) < N:
        raise InputError("samples", samples, f"give at most {len(usable)}, the images there are")
    chosen = stream("digits", seed).choice(usable, size=N, replace=False)
    X = (strips - strips.mean(axis=0))[chosen]
    X *= np.sqrt(TOKEN_NORM_SQUARED / np.square(X).sum(axis=-1).mean())
    if target == "digit":
        y = np.repeat((labels[chosen, None] - 4.5) / np.sqrt(8.25), tokens, axis=1)
        meaning = "(digit - 4.5)/sqrt(8.25) at every token"
    else:
        ink = np.roll(strips.mean(axis=-1), -1, axis=1)
        y = ((ink - ink.mean(axis=0)) / ink.std(axis=0))[chosen]
        meaning = "the standardised mean ink of the next strip"
    notes = [f"Targets: {meaning}."]
    if len(usable) < len(images):
        notes.append(
            f"{len(images) - len(usable)} of {len(images)} images left out: "
            "they have equal or constant strips."
        )
    return Problem.from_arrays(X, y, name="digits", notes=notes)


def load_npz(path: str | Path, per_sample: bool = False, samples: int | None = None) -> Problem:
    """A user's data: an .npz with X (N, n, D) and y (N, n) or (N, n, D_y), read without pickle.

    It may hold a mask (N, n) too, true for a real token.

    Args:
        path: The file.
        per_sample: y may be of shape (N,); labels per token are averaged over tokens.
        samples: Only the first ones; None for all.

    Returns:
        A problem with R = 1; a leading axis of length 1 is accepted.

    Raises:
        InputError: The file is missing, no file, no complete .npz, lacks X or y, holds pickled
            objects, declares more than `LARGEST_BYTES`, its arrays make no problem or several, or
            it has fewer samples, or so many that no matrix over them fits into memory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", X=np.eye(4).reshape(2, 2, 4), y=np.ones((2, 2)))
        ...     load_npz(f"{folder}/mine.npz").D
        4
    """
    path = Path(path)
    arrays = read_arrays(path, optional=("mask",))
    X, y, notes = _first_samples(arrays["X"], arrays["y"], samples, path.name)
    require_rows(X)
    make = Problem.per_sample if per_sample else Problem.from_arrays
    try:
        problem = make(X, y, path.name, notes, _of_these(arrays, X))
    except InputError as error:
        raise InputError(f"{error.field} of {path.name}", error.value, error.remedy) from None
    if problem.R > 1:
        remedy = "give one data set per file: X of shape (N, n, D)"
        raise InputError(f"X of {path.name}", f"array of shape {arrays['X'].shape}", remedy)
    return problem


def _mnist(
    folder: str | Path, samples: int | None, tokens: int | None, target: str, seed: int
) -> Problem:
    """Images of an MNIST folder as patches, the digit as the label of every token."""
    from gdconv.data.idx import load_folder

    if target != "digit":
        raise InputError("target", target, "give digit: a folder of images has nothing else")
    sizes = (8 if samples is None else samples, 4 if tokens is None else tokens)
    made = load_folder(folder, *sizes, seed)
    y = made.y.expand(-1, -1, made.n, -1)
    return Problem.from_arrays(made.X, y, made.name, made.notes)


def _require_room(size: int, sizes: dict[str, int]) -> None:
    """Arrays of so many bytes are made; else the largest of the sizes is named."""
    if size > LARGEST_BYTES:
        field, value = max(sizes.items(), key=lambda item: item[1])
        raise InputError(field, value, "make the problem smaller: it exceeds 4 GiB")


def _distinct_and_varied(strips: np.ndarray) -> np.ndarray:
    """Per image (M, n, D): no strip is constant and no two are equal."""
    varied = (strips.max(axis=-1) > strips.min(axis=-1)).all(axis=-1)
    same = (strips[:, :, None] == strips[:, None]).all(axis=-1).sum(axis=(1, 2))
    return varied & (same == strips.shape[1])


def _of_size(problem: Problem, name: str, tokens: int | None, embedding: int | None) -> Problem:
    """`problem`, unless another number of tokens or another embedding was asked for."""
    asked = {"tokens": (tokens, problem.n), "embedding": (embedding, problem.D)}
    for field, (value, has) in asked.items():
        if value is not None and value != has:
            raise InputError(field, value, f"leave it out, or give {has}, which {name} has")
    return problem


def _first_samples(
    X: np.ndarray, y: np.ndarray, samples: int | None, name: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first `samples` samples, with a note if that leaves some out."""
    axis = X.ndim - 3
    if samples is None or axis not in (0, 1):
        return X, y, []
    N, has = whole("samples", samples), X.shape[axis]
    if has < N:
        raise InputError("samples", samples, f"give at most {has}, what {quoted(name)} has")
    if has == N or y.ndim <= axis or y.shape[axis] != has:
        return X, y, []  # labels of other samples are refused with their shape
    keep = (slice(None),) * axis + (slice(N),)
    return X[keep], y[keep], [f"The first {N} of {has} samples of {name} are used."]


def _of_these(arrays: dict[str, np.ndarray], X: np.ndarray) -> np.ndarray | None:
    """The mask of the samples that are used, None where the file has none."""
    mask, lead = arrays.get("mask"), arrays["X"].shape[:-1]
    if mask is None or X.ndim not in (3, 4):
        return mask
    if mask.shape not in (lead, lead[-2:]):
        wanted = f"give shape {lead[-2:]}, the samples and tokens of X"
        raise InputError("mask", f"array of shape {mask.shape}", wanted)
    return mask[..., : X.shape[-3], :]


def require_rows(X: np.ndarray) -> None:
    """Refuse more tokens than any theorem's Gram matrix can have rows, before looking at them.

    Args:
        X: Tokens, shape (N, n, D) or (R, N, n, D); other shapes are refused elsewhere.

    Raises:
        InputError: A matrix over all pairs of tokens takes more than `LARGEST_BYTES`.

    Example:
        >>> require_rows(np.zeros((8_000_000, 1, 1)))
        Traceback (most recent call last):
        gdconv.support.errors.InputError: samples = 8000000: give fewer, with --samples: a matrix
        over all pairs of tokens would take 4.77e+05 GiB, more than 4.
    """
    if X.ndim not in (3, 4) or not X.shape[-3]:
        return
    N, rows = X.shape[-3], X.shape[-3] * X.shape[-2]
    size = 8 * rows**2 * (X.shape[0] if X.ndim == 4 else 1)
    if size > LARGEST_BYTES:
        share = f"a matrix over all pairs of tokens would take {size / 2**30:.3g} GiB, more than 4"
        raise InputError("samples", N, f"give fewer, with --samples: {share}")
