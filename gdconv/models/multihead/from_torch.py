"""Weights of `torch.nn.MultiheadAttention` as those of the model.

Torch keeps one row per output of a linear map, heads one after another, and divides scores by
sqrt(d), d = E / H, as the model does:

    W_Q,h = (rows h d .. (h+1) d of the query part of in_proj_weight)^T, W_K,h and W_V,h likewise,
    W_O,h = (columns h d .. (h+1) d of out_proj.weight)^T,   D = D_y = E
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gdconv.support.errors import InputError

PACKED, SEPARATE = "in_proj_weight", ("q_proj_weight", "k_proj_weight", "v_proj_weight")
OUT = "out_proj.weight"
BIASES = ("in_proj_bias", "out_proj.bias", "bias_k", "bias_v")
FIRST = (PACKED, SEPARATE[0])


def is_attention(names: Mapping[str, object]) -> bool:
    """Whether names are those of a state_dict with an attention layer.

    Args:
        names: Arrays by name.

    Returns:
        True where one ends like the query weights of `nn.MultiheadAttention`.

    Example:
        >>> is_attention({"attn.in_proj_weight": 0}), is_attention({"W_Q": 0})
        (True, False)
    """
    return bool(_prefixes(names))


def attention_weights(state: Mapping[str, np.ndarray], heads: int | None) -> dict[str, np.ndarray]:
    """W_Q, W_K, W_V (H, E, d) and W_O (H, d, E) of a state_dict.

    Args:
        state: Arrays by name, `attn.in_proj_weight` or without a prefix.
        heads: H, which a state_dict does not say.

    Returns:
        The blocks by name.

    Raises:
        InputError: Several layers or anything else in it, biases that are not zero, a missing or
            misshapen array, or heads that are not given or do not divide E.

    Example:
        >>> eye = np.eye(2)
        >>> state = {"in_proj_weight": np.concatenate([eye, 2 * eye, 3 * eye]),
        ...     "out_proj.weight": eye}
        >>> made = attention_weights(state, heads=2)
        >>> made["W_K"].tolist(), made["W_O"].tolist()
        ([[[2.0], [0.0]], [[0.0], [2.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]])
    """
    layer = _one_layer(state)
    for name in BIASES:
        if name in layer and np.any(layer[name] != 0):
            remedy = "set it to zero, or make the layer with bias=False: the model has no biases"
            raise InputError("weights", f"{name} is not zero", remedy)
    if PACKED in layer:
        packed = layer[PACKED]
        E = packed.shape[-1] if packed.ndim else 0
        _require_shape(layer, PACKED, (3 * E, E))
        parts = np.split(packed, 3)
    else:
        E = layer[SEPARATE[0]].shape[0] if layer[SEPARATE[0]].ndim else 0
        for name in SEPARATE:
            _require_shape(layer, name, (E, E))
        parts = [layer[name] for name in SEPARATE]
    _require_shape(layer, OUT, (E, E))
    if heads is None:
        raise InputError("heads", "nothing", "give heads=, which a state_dict does not say")
    if E % heads:
        raise InputError("heads", heads, f"give a divisor of E = {E}, the embedding of the weights")
    # (E, E) rows (h, d) -> (H, D, d); columns (h, d) -> (H, d, D_y)
    split = {
        name: part.reshape(heads, -1, E).transpose(0, 2, 1)
        for name, part in zip(("W_Q", "W_K", "W_V"), parts, strict=True)
    }
    return split | {"W_O": layer[OUT].T.reshape(heads, -1, E)}


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """What stands before the query weights of every attention layer."""
    found = {
        name.removesuffix(end)
        for name in names
        for end in FIRST
        if name == end or name.endswith(f".{end}")
    }
    return sorted(found)


def _one_layer(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the only attention layer, without their prefix."""
    prefix, *others = _prefixes(state)
    if others:
        shown = f"attention layers {prefix}* and {others[0]}*"
        raise InputError("weights", shown, "give the state_dict of one layer")
    needed = (PACKED,) if prefix + PACKED in state else SEPARATE
    for name in state:
        if name.removeprefix(prefix) not in (*needed, OUT, *BIASES) or not name.startswith(prefix):
            remedy = "give the state_dict of the attention layer alone: nothing would read this"
            raise InputError("weights", name, remedy)
    for name in (*needed, OUT):
        if prefix + name not in state:
            raise InputError("weights", f"no {prefix}{name}", "give the whole state_dict")
    return {name.removeprefix(prefix): array for name, array in state.items()}


def _require_shape(layer: Mapping[str, np.ndarray], name: str, shape: tuple[int, int]) -> None:
    if layer[name].shape != shape or 0 in shape:
        shown = f"{name} of shape {layer[name].shape}"
        remedy = f"give {shape}: queries, keys and values of one embedding E"
        raise InputError("weights", shown, remedy)
