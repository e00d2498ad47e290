"""Images as tokens: square patches, as a vision transformer reads them."""

from __future__ import annotations

from math import isqrt, sqrt

import numpy as np
from jaxtyping import Float, Real

from gdconv.data.draws import TOKEN_NORM_SQUARED, digit_images, stream, whole
from gdconv.data.problem import Problem
from gdconv.support.errors import InputError


def patches(images: Float[np.ndarray, "N h w"], tokens: int) -> Float[np.ndarray, "N n D"]:
    """Cut images into sqrt(n) x sqrt(n) equal patches, row by row.

    Args:
        images: Pixels.
        tokens: n, a square number whose root divides both sides of the images.

    Returns:
        Tokens, D = h w / n.

    Raises:
        InputError: Another number of tokens.

    Example:
        >>> patches(np.arange(16.0).reshape(1, 4, 4), 4)[0, 1].tolist()
        [2.0, 3.0, 6.0, 7.0]
    """
    N, h, w = images.shape
    root = isqrt(whole("tokens", tokens))
    if root * root != tokens or h % root or w % root:
        sizes = [k * k for k in range(1, min(h, w) + 1) if h % k == 0 and w % k == 0]
        raise InputError("tokens", tokens, f"give one of {sizes} for images of {h} x {w} pixels")
    cut = images.reshape(N, root, h // root, root, w // root).swapaxes(2, 3)
    return np.ascontiguousarray(cut.reshape(N, tokens, -1))


def image_problem(
    images: Real[np.ndarray, "M h w"],
    digits: np.ndarray,
    chosen: np.ndarray,
    tokens: int,
    name: str,
) -> Problem:
    """Chosen images as tokens, one label per sample.

    Pixels minus that pixel's mean over all images, times one factor so that the mean squared token
    norm of the chosen images is 4; label (digit - 4.5)/sqrt(8.25).

    Args:
        images: All images.
        digits: Their digits 0..9.
        chosen: Indices of the images to use.
        tokens: n.
        name: Where they came from.

    Returns:
        A problem with R = 1, y of shape (1, N, 1, 1).

    Raises:
        InputError: No such number of patches, or images that are all alike.
    """
    X = patches(images[chosen].astype(np.float64) - images.mean(axis=0, dtype=np.float64), tokens)
    size = np.square(X).sum(axis=-1).mean()
    if not size > 0:
        raise InputError("samples", len(chosen), f"give more images of {name}: these are all alike")
    X *= np.sqrt(TOKEN_NORM_SQUARED / size)
    y = (digits[chosen].astype(np.float64) - 4.5) / sqrt(8.25)
    notes = [f"Tokens: {tokens} square patches; labels: (digit - 4.5)/sqrt(8.25)."]
    return Problem.per_sample(X, y, name, notes)


def digit_patches(samples: int, tokens: int = 4, seed: int = 0) -> Problem:
    """UCI digits (8 x 8 pixels) as patches, one label per sample; `sources.digits` has strips.

    Args:
        samples: N.
        tokens: n, one of 1, 4, 16, 64.
        seed: Seed of the draw, without replacement.

    Returns:
        A problem with R = 1.

    Raises:
        InputError: More samples than images, or another number of patches.

    Example:
        >>> problem = digit_patches(5)
        >>> tuple(problem.X.shape), round(float(problem.X.square().sum(-1).mean()), 12)
        ((1, 5, 4, 16), 4.0)
    """
    images, labels = digit_images()
    N = whole("samples", samples)
    if len(images) < N:
        raise InputError("samples", samples, f"give at most {len(images)}, the images there are")
    chosen = stream("digits", seed).choice(len(images), size=N, replace=False)
    return image_problem(images, labels, chosen, tokens, "digits")
