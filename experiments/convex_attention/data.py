"""The tasks of the convex attention experiment: tokens X (N, n, d), one number y per sample.

- digits: the UCI digits in 2 x 2 patches, each with a code of its position (n = 16, d = 8), even
  (-1) against odd (+1);
- pixels: the same images, every pixel a token (n = 64, d = 1), for the path only;
- student-teacher: tokens of a small transformer that was trained on the ten digits and frozen up
  to the input of its last attention layer (n = 16, d = 16). That layer, averaged over the tokens
  and read by the classifier's direction of one digit, is the teacher; students replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.tasks.classifier import ClassifierSizes, TransformerClassifier
from experiments.tasks.training import Samples, TrainingPlan, train
from gdconv.data.images import patches
from gdconv.support.errors import InputError

TASKS = ("digits", "student-teacher")
STREAM = 17
"""Separate random stream for the draw of the images."""
ENCODER = ClassifierSizes(tokens=16, features=4, classes=10, D=16, d=32, H=2, layers=2)
"""The network whose tokens the students get."""
ENCODER_IMAGES = 1200
"""Images it is trained on; students are trained and tested on the other 597."""


@dataclass(frozen=True, eq=False)
class TokenTask:
    """Data of one seed.

    Attributes:
        name: Name of the task.
        X: Training tokens (N, n, d), float64.
        y: Targets (N).
        X_test: Held-out tokens.
        y_test: Their targets.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def images() -> tuple[np.ndarray, np.ndarray]:
    """The digits in one fixed random order.

    Returns:
        Pixels in [0, 1] (1797, 8, 8) and the digits.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    order = np.random.default_rng(STREAM).permutation(len(bunch.target))
    return bunch.images[order] / 16.0, bunch.target[order]


def _scaled(tokens: np.ndarray) -> np.ndarray:
    """Centred pixel by pixel, mean squared token norm 1: the same factor for all."""
    centred = tokens - tokens.mean(0)
    return np.asarray(centred / np.sqrt(np.square(centred).sum(-1).mean()), np.float64)


def positions(n: int) -> np.ndarray:
    """Cosine and sine of row and column of a square grid: without it (3) sees a bag of patches.

    Args:
        n: Tokens, a square number.

    Returns:
        Code (n, 4), rows of norm 1.

    Example:
        >>> np.round(np.square(positions(4)).sum(1), 12).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    side = round(n**0.5)
    at = np.pi * (np.arange(side) + 0.5) / side
    row, column = (part.ravel() for part in np.meshgrid(at, at, indexing="ij"))
    parts = (np.cos(row), np.sin(row), np.cos(column), np.sin(column))
    return np.asarray(np.stack(parts, 1) / np.sqrt(2.0))


def encoder(folder: Path | None, steps: int) -> tuple[TransformerClassifier, float]:
    """The pretrained network; training goes on from its checkpoint.

    Args:
        folder: Where the checkpoint lies; None keeps none.
        steps: Steps of Adam.

    Returns:
        The network, frozen, and its accuracy on the images it was not trained on.
    """
    pixels, labels = images()
    X = torch.from_numpy(_scaled(patches(pixels, 16))).float()
    y = torch.from_numpy(labels.astype(np.int64))
    net = TransformerClassifier(ENCODER, "softmax", seed=0)
    cut = ENCODER_IMAGES
    plan = TrainingPlan(steps, 64, 0.003, "adam", every=max(steps // 4, 1), warmup=20)
    path = None if folder is None else folder / "encoder.pt"
    made = train(net, Samples(X[:cut], y[:cut], X[cut:], y[cut:]), plan, path)
    return net.requires_grad_(requires_grad=False).eval(), float(made.rows[-1]["accuracy"])


def _teacher(
    net: TransformerClassifier, tokens: torch.Tensor, digit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens u (M, 16, 16) and (w_digit - mean of all w) times the last attention's mean output."""
    with torch.no_grad():
        x = net.embedding(tokens) + net.positions
        x = net.layers[0](x, None)
        last: Any = net.layers[1]
        u = last.before_attention(x)
        made = last.attention(u).mean(1)
        w: Any = net.classes.weight
        score = made @ (w[digit] - w.mean(0))
    return u.double().numpy(), score.double().numpy()


def load(name: str, seed: int, sizes: tuple[int, int], net: Any = None) -> TokenTask:
    """Data of one seed.

    Args:
        name: digits, pixels or student-teacher.
        seed: Of the draw; the teacher reads digit seed mod 10.
        sizes: Training samples N and held-out samples.
        net: The pretrained network, student-teacher only.

    Returns:
        The task.

    Raises:
        InputError: Unknown name, or more samples than there are images.

    Example:
        >>> load("digits", 0, (8, 20)).X.shape
        (8, 16, 8)
    """
    pixels, labels = images()
    first = ENCODER_IMAGES if name == "student-teacher" else 0
    if sum(sizes) > len(labels) - first:
        raise InputError("samples", sum(sizes), f"give at most {len(labels) - first} images")
    order = first + np.random.default_rng([STREAM, seed]).permutation(len(labels) - first)
    rows = order[: sum(sizes)]
    if name == "student-teacher":
        whole = torch.from_numpy(_scaled(patches(pixels, 16))).float()
        X, score = _teacher(net, whole[rows], seed % 10)
        N = sizes[0]
        y = (score - score[:N].mean()) / score[:N].std()
        X = X / np.sqrt(np.square(X[:N]).sum(-1).mean())
    elif name in {"digits", "pixels"}:
        X = _scaled(patches(pixels, 16 if name == "digits" else 64))[rows]
        if name == "digits":
            code = np.broadcast_to(positions(16), (len(X), 16, 4))
            X = np.concatenate([X, code], -1) / np.sqrt(2.0)
        y = np.where(labels[rows] % 2 == 1, 1.0, -1.0)
    else:
        raise InputError("task", name, "give digits, pixels or student-teacher")
    N = sizes[0]
    return TokenTask(name, X[:N], y[:N], X[N:], y[N:])
