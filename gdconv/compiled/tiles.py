"""Filling symmetric matrices on the CPU: 8 x 8 tiles, transposed in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from gdconv.compiled.cache import njit
from gdconv.compiled.simd import _VEC, WIDTH, _pointer, intrinsic

_jit = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight, transposed by shuffles."""
    index, made = ir.VectorType(ir.IntType(32), WIDTH), list(rows)
    for k in (1, 2, 4):  # swap the off-diagonal k x k parts of every 2k x 2k part
        low = ir.Constant(index, [j if not j & k else WIDTH + j - k for j in range(WIDTH)])
        high = ir.Constant(index, [j + k if not j & k else WIDTH + j for j in range(WIDTH)])
        for i in (i for i in range(WIDTH) if not i & k):
            pair = made[i], made[i + k]
            made[i] = builder.shuffle_vector(*pair, low)
            made[i + k] = builder.shuffle_vector(*pair, high)
    return made


def _load(context: Any, builder: Any, kind: Any, array: Any, offset: Any, stride: Any) -> list[Any]:
    """Eight vectors of eight, `stride` numbers apart."""
    rows = []
    for _ in range(WIDTH):
        at = _pointer(context, builder, kind, (array, offset), _VEC)
        rows.append(builder.load(at, align=8))
        offset = builder.add(offset, stride)
    return rows


def _store(
    context: Any, builder: Any, kind: Any, array: Any, offset: Any, stride: Any, rows: list[Any],
    streaming: bool = False,
) -> None:  # fmt: skip
    """The reverse; past the cache where `streaming` (whole aligned lines only)."""
    for row in rows:
        at = _pointer(context, builder, kind, (array, offset), _VEC)
        made = builder.store(row, at, align=64 if streaming else 8)
        if streaming:
            one = ir.Constant(ir.IntType(32), 1)
            made.set_metadata("nontemporal", builder.module.add_metadata([one]))
        offset = builder.add(offset, stride)


def _twice(streaming: bool) -> Any:
    @intrinsic
    def put(typingctx, part, source, stride, out, upper, lower, width):  # type: ignore[no-untyped-def]
        """Copy the 8 x 8 tile of `part` to `upper` and, transposed, to `lower`."""

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kinds, where = signature.args, (args[3], args[4], args[6])
            rows = _load(context, builder, kinds[0], args[0], args[1], args[2])
            _store(context, builder, kinds[3], *where, rows, streaming)
            where = (args[3], args[5], args[6])
            _store(context, builder, kinds[3], *where, _transposed(builder, rows), streaming)
            return context.get_dummy_value()

        offsets = (types.intp,) * 3
        return types.void(part, types.intp, types.intp, out, *offsets), codegen

    return put


_put, _stream = _twice(False), _twice(True)


@_jit
def _place_slowly(out, part, offset, stride, row, rows, col, cols):  # type: ignore[no-untyped-def]
    for i in range(rows):
        for j in range(cols):
            if col + j >= row + i:
                value = part[offset + i * stride + j]
                out[row + i, col + j] = value
                out[col + j, row + i] = value


@_jit
def place(out, part, offset, stride, row, rows, col, cols, streaming):  # type: ignore[no-untyped-def]
    """Write a part of a symmetric matrix to its place and, transposed, to the mirrored one.

    Entries below the diagonal are left out: they come from the other side.

    Args:
        out: Square contiguous matrix.
        part: Flat array of entries.
        offset: Where the part starts in it.
        stride: Distance of its rows.
        row: Row of its first entry in `out`.
        rows: How many rows.
        col: Column of its first entry.
        cols: How many columns.
        streaming: Write past the cache; `out` must start on a cache line, its size be a multiple
            of 8.
    """
    flat, size = out.reshape(-1), len(out)
    above, left = min(-row % WIDTH, rows), min(-col % WIDTH, cols)
    below = above + (rows - above) // WIDTH * WIDTH
    right = left + (cols - left) // WIDTH * WIDTH
    _place_slowly(out, part, offset, stride, row, above, col, cols)
    last = offset + below * stride
    _place_slowly(out, part, last, stride, row + below, rows - below, col, cols)
    inner = offset + above * stride
    _place_slowly(out, part, inner, stride, row + above, below - above, col, left)
    last = inner + right
    _place_slowly(out, part, last, stride, row + above, below - above, col + right, cols - right)
    for i in range(above, below, WIDTH):
        for j in range(left, right, WIDTH):
            r, c, source = row + i, col + j, offset + i * stride + j
            if c >= r + WIDTH and streaming:
                _stream(part, source, stride, flat, r * size + c, c * size + r, size)
            elif c >= r + WIDTH:
                _put(part, source, stride, flat, r * size + c, c * size + r, size)
            elif c + WIDTH > r:
                _place_slowly(out, part, source, stride, r, WIDTH, c, WIDTH)
