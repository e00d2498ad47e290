"""A model family before its options are known: what it reads, and how it is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gdconv.models.reads import MODULE, OWN, READS
from gdconv.support.errors import InputError, cause
from gdconv.support.objects import object_named, text_of
from gdconv.support.options import Option, options_of

if TYPE_CHECKING:
    from gdconv.models.architecture import Architecture

DEFAULT_NET = "gdconv.models.generic.nets:TwoLayer"
"""What a theorem about any module is tried on when no model is given."""


@dataclass(frozen=True)
class Candidate:
    """A model family whose options are open.

    Attributes:
        name: How tables and files name it, and what `--model` takes.
        kind: What `Theorem.models` calls it.
        reads: Fields of `Config` that it reads.
        own: Options that it declares itself.
        defaults: Its defaults of fields.
        text: The text under which its class is found, for an `Architecture` in memory.
        make: (values of its own options, loss) -> the family.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    make: Callable[[Mapping[str, Any], Any], Architecture]
    own: tuple[Option, ...] = ()
    defaults: Mapping[str, Any] | None = None
    text: str | None = None


def candidate(text: str, model: Any = None) -> Candidate | None:
    """What `--model` means, or what was handed over as `model=`.

    Args:
        text: Name of one of our families, module, or `package.module:name`.
        model: An object in memory: a torch module or what makes one, or an `Architecture`; None
            where the text says it.

    Returns:
        The candidate; None where the text names nothing.

    Raises:
        InputError: The object cannot be imported, or declares options that cannot be.

    Example:
        >>> candidate("multihead").kind, candidate("unheard-of")
        ('multihead', None)
        >>> [o.flag for o in candidate("gdconv.models.generic.nets:TwoLayer").own]
        ['--samples', '--inputs', '--width', '--label']
    """
    if model is None:
        if text in READS:
            return Candidate(text, text, READS[text], lambda values, loss: _ours(text))
        if text == "module":
            text = DEFAULT_NET
        if ":" not in text:
            return None
        model = object_named("model", text, "a model")
    from gdconv.models.architecture import Architecture

    maker = callable(model) and (isinstance(model, type) or hasattr(model, "__code__"))
    own = options_of(model, f"model {text}") if maker and not _nameless(model) else ()
    if isinstance(model, Architecture):
        return Candidate(
            text, model.kind, model.reads, lambda values, loss: model, text=text_of(type(model))
        )
    if isinstance(model, type) and issubclass(model, Architecture):
        return Candidate(
            text, getattr(model, "name", text), model.reads,
            lambda values, loss: _made(text, model, values), own, text=text_of(model),
        )  # fmt: skip
    drawn = hasattr(model, "data") and not _is_module(model)
    defaults = {"loss": "squared", "data": OWN if drawn else None}
    return Candidate(
        text, "module", MODULE, lambda values, loss: _module(text, model, values, loss), own,
        defaults,
    )  # fmt: skip


def _nameless(model: Any) -> bool:
    """A lambda: its defaults bind values, they are no options."""
    return getattr(model, "__name__", "") == "<lambda>"


def _is_module(model: Any) -> bool:
    """A class whose instances are torch modules: made anew under each run's seed."""
    from torch import nn

    return isinstance(model, type) and issubclass(model, nn.Module)


def _ours(name: str) -> Architecture:
    from gdconv.models.families import ARCHITECTURES

    return ARCHITECTURES[name]


def _made(name: str, maker: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """What a user's class or function makes of the values of its options."""
    try:
        return maker(**values)
    except InputError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise InputError("model", name, f"give options that it takes ({cause(error)})") from error


def _module(name: str, model: Any, values: Mapping[str, Any], loss: Any) -> Architecture:
    from gdconv.models.generic.family import ModuleFamily  # torch.fx loads slowly

    if isinstance(model, type) and not _is_module(model):
        return ModuleFamily(_made(name, model, values), name, loss)
    if not values:
        return ModuleFamily(model, name, loss)
    return ModuleFamily(lambda: _made(name, model, values), name, loss)
