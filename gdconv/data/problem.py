"""A regression problem: samples of tokens X, a target per token y, and a leading replica axis.

Samples of different length have a mask: padded tokens are zero, no keys and no outputs.

Row (i, k) of the feature matrix B depends only on token x_ik and on which tokens sample i holds, so
data alone can force sigma_{Nn}(B) = 0, whatever the weights; `Problem.from_arrays` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gdconv.data.notes import degeneracies, merge_notes, notes_of
from gdconv.data.padding import blanked, note
from gdconv.data.targets import matched, shape_of
from gdconv.rigor.lapack import singular_values
from gdconv.support.arrays import real_array as real_array
from gdconv.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Problem:
    """Data (X_i, y_i), i = 1..N, for R replicas of equal shape; build it with `from_arrays`.

    Attributes:
        X: Tokens, shape (R, N, n, D): N samples of n tokens of D numbers each.
        y: Targets, shape (R, N, n, D_y), or (R, N, 1, 1) with one label per sample.
        name: Where the data came from, for tables.
        notes: Sentences a reader of the result should know; "run r: ..." speaks of one replica.
        duplicate_tokens: In some replica two rows of B are equal for all weights, or one is zero:
            two tokens of one sample are identical, two samples hold the same tokens in some order,
            or a sample is a single zero token.
        mask: True for a real token, shape (N, n), the same in all replicas; None where all are.

    Example:
        >>> problem = Problem.from_arrays(np.eye(4).reshape(2, 2, 4), [[1.0, 2.0], [3.0, 4.0]])
        >>> problem.R, problem.N, problem.n, problem.D, problem.D_y
        (1, 2, 2, 4, 1)
        >>> print(problem.overparametrization_note(heads=1))
        None
    """

    X: Float[Tensor, "R N *inputs"]
    y: Float[Tensor, "R N *outputs"]
    name: str = "user"
    notes: tuple[str, ...] = ()
    duplicate_tokens: bool = False
    mask: Bool[Tensor, "N n"] | None = None

    @classmethod
    def from_arrays(
        cls, X: Any, y: Any, name: str = "user", notes: Iterable[str] = (), mask: Any = None
    ) -> Problem:
        """Validates and copies arrays into a float64 problem.

        Args:
            X: Real array (NumPy, torch or nested lists), shape (N, n, D) or (R, N, n, D).
            y: Real array, shape (N, n) or (N, n, D_y), with the same leading R if X has it.
            name: Where the data came from.
            notes: Sentences to carry along.
            mask: True (or 1) for a real token, shape (N, n); what stands elsewhere is not read.

        Returns:
            The problem, on the CPU, sharing no memory with its arguments.

        Raises:
            InputError: Wrong rank, mismatched or empty axes, masked, non-numeric, non-finite or
                overflowing entries, or a mask that fits no tokens or empties a sample; the message
                names X, y or mask and what to give instead.

        Example:
            >>> Problem.from_arrays(np.ones((2, 3)), np.ones(2))
            Traceback (most recent call last):
            gdconv.support.errors.InputError: X = array of shape (2, 3): give shape (N, n, D):
            samples, tokens, embedding.
        """
        X, y, real = blanked(X, y, mask)
        tokens, x_notes = real_array("X", X)
        targets, y_notes = real_array("y", y)
        if tokens.ndim not in (3, 4):
            raise InputError(
                "X", shape_of(tokens), "give shape (N, n, D): samples, tokens, embedding"
            )
        for axis, size in zip(("samples", "tokens", "embedding"), tokens.shape[-3:], strict=True):
            if size == 0:
                raise InputError("X", shape_of(tokens), f"give at least one entry along {axis}")
        if tokens.ndim == 4 and tokens.shape[0] == 0:
            raise InputError("X", shape_of(tokens), "give at least one replica")
        targets = matched(targets, tokens)
        if tokens.ndim == 3:
            tokens, targets = tokens[None], targets[None]
        said = [*notes, *x_notes, *y_notes, *([] if real is None else [note(real)])]
        per_run = [degeneracies(x, real) for x in tokens]
        return cls(
            X=torch.from_numpy(tokens),
            y=torch.from_numpy(targets),
            name=name,
            notes=merge_notes([[*said, *found] for found in per_run]),
            duplicate_tokens=any(map(bool, per_run)),
            mask=None if real is None else torch.from_numpy(real),
        )

    @classmethod
    def per_sample(
        cls, X: Any, y: Any, name: str = "user", notes: Iterable[str] = (), mask: Any = None
    ) -> Problem:
        """A problem with one label per sample; labels per token are averaged over tokens.

        Args:
            X: Tokens, shape (N, n, D) or (R, N, n, D).
            y: Labels, shape (N,), (N, n) or (N, n, 1), or (N, 1, 1) as stored, R before or not.
            name: Where the data came from.
            notes: Sentences to carry along.
            mask: As for `from_arrays`; a mean is one over the real tokens.

        Returns:
            The problem, y of shape (R, N, 1, 1).

        Raises:
            InputError: As `from_arrays`, or several outputs per label.

        Example:
            >>> Problem.per_sample(np.ones((2, 3, 4)), [0.0, 1.0]).y.flatten().tolist()
            [0.0, 1.0]
        """
        X, y, real = blanked(X, y, mask)
        (tokens, x_notes), (labels, y_notes) = real_array("X", X), real_array("y", y)
        lead = tokens.shape[:-1]
        alone = tokens.ndim in (3, 4) and labels.shape in (lead[:-1], (*lead[:-1], 1, 1))
        if alone:
            labels = np.repeat(labels.reshape(*lead[:-1], 1), lead[-1], axis=-1)
        elif tokens.ndim in (3, 4) and labels.ndim < tokens.ndim - 1:
            remedy = f"give one label per sample, shape {lead[:-1]}, or one per token, {lead}"
            raise InputError("y", shape_of(labels), remedy)
        made = cls.from_arrays(tokens, labels, name)
        if made.D_y != 1:
            raise InputError("y", f"{made.D_y} outputs", "give one label per sample")
        n = tokens.shape[-2] if real is None else torch.from_numpy(real.sum(1)).view(1, -1, 1, 1)
        # a mean would round; equal rows of B say nothing here
        y_kept = made.y[:, :, :1].clone() if alone else made.y.sum(2, keepdim=True) / n
        said = (*notes, *x_notes, *y_notes, *([] if real is None else [note(real)]))
        kept = None if real is None else torch.from_numpy(real)
        return replace(made, y=y_kept, notes=said, duplicate_tokens=False, mask=kept)

    @classmethod
    def of_samples(cls, X: Any, y: Any, name: str = "user", notes: Iterable[str] = ()) -> Problem:
        """Samples of any shape, for a model of any kind.

        Args:
            X: Inputs (N, ...), real and finite.
            y: Targets (N, ...).
            name: Where the data came from.
            notes: Sentences to carry along.

        Returns:
            The problem, one replica, float64 on the CPU.

        Raises:
            InputError: No samples, not as many targets, or entries that are no finite numbers.

        Example:
            >>> Problem.of_samples([[1.0, 2.0], [3.0, 4.0]], [0.0, 1.0]).X.shape
            torch.Size([1, 2, 2])
        """
        (inputs, x_notes), (targets, y_notes) = real_array("X", X), real_array("y", y)
        if inputs.ndim < 1 or inputs.size == 0:
            raise InputError("X", shape_of(inputs), "give at least one sample, shape (N, ...)")
        if targets.ndim < 1 or targets.size == 0 or len(targets) != len(inputs):
            raise InputError("y", shape_of(targets), f"give {len(inputs)} targets, one per sample")
        said = (*notes, *x_notes, *y_notes)
        return cls(torch.from_numpy(inputs)[None], torch.from_numpy(targets)[None], name, said)

    def with_label_norm(self, norm: float) -> Problem:
        """The same data with every run's labels times one factor, so that |y|_F = norm.

        Args:
            norm: What |y|_F is to be.

        Returns:
            The rescaled problem.

        Raises:
            InputError: The labels are zero.

        Example:
            >>> Problem.per_sample([[[1.0]]], [3.0]).with_label_norm(2.0).y.item()
            2.0
        """
        now = self.y.flatten(1).norm(dim=1)
        if not bool((now > 0).all()):
            raise InputError("label_norm", norm, "leave it out: the labels are zero")
        return replace(self, y=self.y * (norm / now).view(-1, 1, 1, 1))

    @classmethod
    def stack(cls, problems: Sequence[Problem]) -> Problem:
        """Joins problems of equal (N, n, D, D_y) along the replica axis.

        Args:
            problems: At least one problem.

        Returns:
            One problem with R = sum of the R; a note that not all share is marked "run r: ...".

        Raises:
            InputError: No problem, or different shapes.

        Example:
            >>> one = Problem.from_arrays(np.ones((1, 1, 2)), np.ones((1, 1)))
            >>> Problem.stack([one, one]).R
            2
        """
        if not problems:
            raise InputError("problems", "[]", "give at least one problem")
        shapes = {(*p.X.shape[1:], p.y.shape[-1]) for p in problems}
        if len(shapes) > 1:
            raise InputError(
                "problems", f"shapes {sorted(shapes)}", "stack only equal (N, n, D, D_y)"
            )
        masks = [p.real.cpu() for p in problems]
        if not all(torch.equal(m, masks[0]) for m in masks):
            raise InputError("problems", "different masks", "stack only those of one mask")
        return cls(
            X=torch.cat([p.X for p in problems]),
            y=torch.cat([p.y for p in problems]),
            name=problems[0].name,
            notes=merge_notes([notes_of(p.notes, r) for p in problems for r in range(p.R)]),
            duplicate_tokens=any(p.duplicate_tokens for p in problems),
            mask=problems[0].mask,
        )

    def __getitem__(self, run: int) -> Problem:
        X = self.X[run][None]
        return replace(
            self,
            X=X,
            y=self.y[run][None],
            notes=tuple(notes_of(self.notes, run % self.R)),
            duplicate_tokens=self.duplicate_tokens and bool(self._degenerate(X[0])),
        )

    def _degenerate(self, X: Tensor) -> list[str]:
        return degeneracies(X.cpu().numpy(), None if self.mask is None else self.mask.cpu().numpy())

    def __len__(self) -> int:
        return self.R

    @property
    def R(self) -> int:
        """Number of replicas."""
        return self.X.shape[0]

    @property
    def N(self) -> int:
        """Number of samples."""
        return self.X.shape[1]

    @property
    def n(self) -> int:
        """Places for tokens per sample, padding included."""
        return self.X.shape[2]

    @property
    def real(self) -> Bool[Tensor, "N n"]:
        """The mask, all true where there is none."""
        shape, device = self.X.shape[1:3], self.X.device
        return (
            torch.ones(shape, dtype=torch.bool, device=device) if self.mask is None else self.mask
        )

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each sample, n_i."""
        if self.mask is None:
            return np.full(self.N, self.n)
        return np.asarray(self.mask.sum(1).cpu())

    def rows(self, values: Tensor) -> Tensor:
        """What belongs to real tokens: (R, N, n, ...) as (R, T, ...), T = sum_i n_i.

        Args:
            values: One entry per token, padding included.

        Returns:
            The entries of the real ones, sample by sample.

        Example:
            >>> mask = [[True, False], [True, True]]
            >>> problem = Problem.from_arrays(np.ones((2, 2, 1)), np.ones((2, 2)), mask=mask)
            >>> problem.rows(problem.y).shape
            torch.Size([1, 3, 1])
        """
        return values.flatten(1, 2) if self.mask is None else values[:, self.mask]

    def placed(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`: (R, T, ...) as (R, N, n, ...), zeros at padded places.

        Args:
            rows: One entry per real token.

        Returns:
            One entry per token.

        Example:
            >>> problem = Problem.from_arrays(np.ones((1, 2, 1)), np.ones((1, 2)), mask=[[0, 1]])
            >>> problem.placed(torch.ones(1, 1)).tolist()
            [[[0.0, 1.0]]]
        """
        if self.mask is None:
            return rows.unflatten(1, (self.N, self.n))
        made = rows.new_zeros(len(rows), self.N, self.n, *rows.shape[2:])
        made[:, self.mask] = rows
        return made

    @property
    def D(self) -> int:
        """Numbers per token (embedding dimension)."""
        return self.X.shape[3]

    @property
    def D_y(self) -> int:
        """Numbers per target."""
        return self.y.shape[3]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Problem:
        """Moves or converts the data.

        Args:
            device: Where to, or None to stay.
            dtype: A floating torch dtype, or None to keep.

        Returns:
            A problem whose X and y are there.

        Example:
            >>> Problem.from_arrays([[[1.0]]], [[1.0]]).to(dtype=torch.float32).X.dtype
            torch.float32
        """
        X, y = (value.to(device=device, dtype=dtype) for value in (self.X, self.y))
        return replace(self, X=X, y=y, mask=None if self.mask is None else self.mask.to(device))

    def overparametrization_note(self, heads: int) -> str | None:
        """Says when B (Nn x HD) cannot have full row rank, so that the theorem is silent.

        With padding N n is the number of real tokens.

        rank(B) <= H rank(tokens) <= HD, since every row of B^(h) mixes tokens; sigma_{Nn}(B) > 0
        needs rank Nn. The first test is exact, the second uses the numerical rank of the tokens.

        Args:
            heads: H.

        Returns:
            A sentence, or None when neither test fires (which proves nothing about a given B).

        Example:
            >>> problem = Problem.from_arrays(np.ones((3, 1, 2)), np.ones((3, 1)))
            >>> problem.overparametrization_note(heads=1)[:32]
            'H D = 1 * 2 = 2 is below N n = 3'
        """
        tokens = self.rows(self.X)
        rows = tokens.shape[1]
        if heads * self.D < rows:
            return (
                f"H D = {heads} * {self.D} = {heads * self.D} is below N n = {rows}: "
                "sigma_{Nn}(B) = 0 for all weights and the theorem is silent; "
                f"take at least {-(-rows // self.D)} heads, or fewer samples or tokens."
            )
        sizes = singular_values(tokens.detach().cpu().numpy())
        floor = sizes[:, :1] * max(rows, self.D) * torch.finfo(self.X.dtype).eps
        rank = int((sizes > floor).sum(1).min())
        if heads * rank < rows:
            return (
                f"The tokens span only {rank} of {self.D} dimensions (numerically), and "
                f"H * {rank} = {heads * rank} is below N n = {rows}: sigma_{{Nn}}(B) = 0 for all "
                "weights and the theorem is silent; take more heads, or fewer samples or tokens."
            )
        return None
