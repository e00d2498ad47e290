"""Where a module multiplies by its parameters: every call of torch that meets one, in one pass.

A parameter is understood if it is used once, as the weight of a product along the last axis or as a
bias added along it, whatever layer or line of code does it. Any other use, or a second one, is seen
as well, and the parameter is then left to whoever forms its Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = ("matmul", "mm", "__matmul__")
SUMS = ("add", "__add__", "__radd__")
"""Functions and methods of torch by name."""

NESTED = (tuple, list, dict)
"""Arguments that may hold tensors."""


@dataclass(frozen=True)
class Use:
    """One product z = a W + b, or a sum with a bias.

    Attributes:
        weight: Name of W, "" for none.
        bias: Name of b, "" for none.
        a: What is multiplied (N, ..., in); None without a weight.
        z: The result (N, ..., out), (N, ...) for a vector W.
        flipped: W is stored (in, out).
        vector: W is a vector.
        versions: Of a and z, which writing in place would change.
    """

    weight: str
    bias: str
    a: Tensor | None
    z: Tensor
    flipped: bool
    vector: bool
    versions: tuple[int, int]

    def kept(self, N: int) -> bool:
        """Whether samples stand in front and nothing has been written over."""
        now = (0 if self.a is None else self.a._version, self.z._version)
        rows = 1 if self.vector else 2
        front = self.z.ndim >= rows and self.z.shape[0] == N
        if self.a is not None:
            front = front and self.a.ndim == self.z.ndim + self.vector and self.a.shape[0] == N
        return front and self.z.requires_grad and now == self.versions


class Tape(TorchFunctionMode):
    """Sees every use of some parameters while it is entered.

    Args:
        leaves: Parameters by name.

    Example:
        >>> W, X = torch.ones(3, 2, requires_grad=True), torch.ones(4, 2)
        >>> with Tape({"W": W}) as tape:
        ...     F = torch.tanh(X @ W.T)
        >>> [use.weight for use in tape.understood(4)]
        ['W']
        >>> with Tape({"W": W}) as tape:
        ...     F = X @ W.T + W.sum()
        >>> tape.understood(4)
        ()
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.leaves = {id(p) for p in leaves.values()}
        self.names = {id(p): name for name, p in leaves.items()}  # and their transposed views
        self.turned: list[Tensor] = []  # those views, held alive
        self.count = dict.fromkeys(leaves, 0)
        self.uses: list[Use] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call it, and note what it does with the parameters."""
        kwargs = kwargs or {}
        z = func(*args, **kwargs)
        for x in (*args, *kwargs.values()):
            if type(x) in NESTED or id(x) in self.names:
                met = [self._name(x) for x in _tensors((args, kwargs)) if id(x) in self.names]
                if met and any(x.requires_grad for x in _tensors(z)):
                    self._note(func, args, kwargs, z, met)
                break
        return z

    def _name(self, x: Any) -> str:
        return self.names.get(id(x), "")

    def _note(self, func: Any, args: Any, kwargs: Any, z: Any, met: list[str]) -> None:
        W = args[0] if args else None
        if len(met) == 1 and id(W) in self.leaves and _is_transpose(z, W):
            self.turned.append(z)
            self.names[id(z)] = met[0]
            return
        use = self._understood(func, args, kwargs, z) if isinstance(z, Tensor) else None
        if use is not None and sorted(met) == sorted(filter(None, (use.weight, use.bias))):
            self.uses.append(use)
        else:
            use = None
        for name in met:
            self.count[name] += 1 if use else 2

    def _understood(self, func: Any, args: Any, kwargs: Any, z: Tensor) -> Use | None:
        """The use as a product or as a sum with a bias."""
        name = getattr(func, "__name__", "")
        if func is torch.nn.functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            return self._product(given["input"], given["weight"], given.get("bias"), z, True)
        if kwargs:
            return None
        if name in PRODUCTS and len(args) == 2:
            return self._product(args[0], args[1], None, z, False)
        if func is torch.addmm and len(args) == 3:
            return self._product(args[1], args[2], args[0], z, False)
        if name in SUMS and len(args) == 2:
            for h, b in (args, args[::-1]):
                if self._is_bias(b, z) and isinstance(h, Tensor) and h.shape == z.shape:
                    return Use("", self._name(b), None, z, False, False, (0, z._version))
        return None

    def _is_bias(self, b: Any, z: Tensor) -> bool:
        return (
            isinstance(b, Tensor) and id(b) in self.leaves and b.ndim == 1 and z.ndim > 1
            and b.shape[0] == z.shape[-1]
        )  # fmt: skip

    def _product(self, a: Any, W: Any, b: Any, z: Tensor, out_first: bool) -> Use | None:
        """A product along the last axis of a; `out_first` says that the function itself turns W."""
        if not (isinstance(a, Tensor) and isinstance(W, Tensor)) or a.ndim < 2:
            return None
        bias = self._name(b) if b is not None else ""
        if bias and not self._is_bias(b, z):
            return None
        weight = self._name(W)
        if not weight:  # a frozen weight
            return Use("", bias, None, z, False, False, (0, z._version)) if bias else None
        if W.ndim > 2 or (W.ndim == 1 and out_first):
            return None
        stored_out_first = out_first != (id(W) not in self.leaves)
        vector = W.ndim == 1
        return Use(
            weight, bias, a, z, not stored_out_first and not vector, vector,
            (a._version, z._version),
        )  # fmt: skip

    def understood(self, N: int) -> tuple[Use, ...]:
        """Uses of parameters that are used nowhere else, samples in front.

        Args:
            N: Samples.

        Returns:
            In the order of the calls.
        """
        return tuple(
            use
            for use in self.uses
            if use.kept(N) and all(self.count[n] == 1 for n in (use.weight, use.bias) if n)
        )


def _tensors(x: Any) -> Iterable[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for part in x:
            yield from _tensors(part)
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))


def _is_transpose(z: Any, W: Any) -> bool:
    """Whether z is W of two axes with these exchanged, on the same memory."""
    return (
        isinstance(z, Tensor)
        and W.ndim == z.ndim == 2
        and z.data_ptr() == W.data_ptr()
        and z.shape == W.shape[::-1]
        and z.stride() == W.stride()[::-1]
        and z.requires_grad
    )
