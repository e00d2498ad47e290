"""Eight doubles side by side inside numba: the vector type of the fused engine.

`Lanes` is an LLVM <8 x double>; LLVM lowers it to whatever the processor has (512-, 256- or 128-bit
registers), so nothing here depends on the machine. All arithmetic is ordinary IEEE round to
nearest; the only freedom taken is that `fma(a, b, c)` may or may not fuse, which every rounding
bound allows. Memory is addressed by flat offsets into one-dimensional contiguous float64 arrays,
without bound checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

from gdconv.compiled.cache import njit

WIDTH = 8
intrinsic: Any = extending.intrinsic  # its first argument is numba's, mypy cannot know
_F8, _I8 = ir.DoubleType(), ir.IntType(64)
_VEC, _IVEC = ir.VectorType(_F8, WIDTH), ir.VectorType(_I8, WIDTH)


class Lanes(types.Type):
    """Numba type of eight doubles in a register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes8")


LANES = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VEC)


def _pointer(context: Any, builder: Any, array_type: Any, args: Any, to: Any) -> Any:
    data = context.make_array(array_type)(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]], inbounds=True), to.as_pointer())


def _splat(builder: Any, scalar: Any, vector: Any = _VEC) -> Any:
    one = builder.insert_element(
        ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
    )
    mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _const(value: float) -> Any:
    return ir.Constant(_VEC, [value] * WIDTH)


@intrinsic
def load(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """array[offset : offset + 8]."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(context, builder, signature.args[0], args, _VEC), align=8)

    return LANES(array, types.intp), codegen


@intrinsic
def store(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """array[offset : offset + 8] = value."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _pointer(context, builder, signature.args[0], args, _VEC), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), codegen


@intrinsic
def at(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """array[offset] in every lane."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, signature.args[0], args, _F8)
        return _splat(builder, builder.load(pointer, align=8))

    return LANES(array, types.intp), codegen


@intrinsic
def splat(typingctx, scalar):  # type: ignore[no-untyped-def]
    """The scalar in every lane."""
    return LANES(types.float64), lambda context, builder, signature, args: _splat(builder, args[0])


def _binary(operation: str) -> Any:
    @intrinsic
    def call(typingctx, a, b):  # type: ignore[no-untyped-def]
        """Lane by lane."""
        return LANES(LANES, LANES), lambda c, builder, s, args: getattr(builder, operation)(*args)

    return call


add, sub, mul, div = (_binary(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


@intrinsic
def larger(typingctx, a, b):  # type: ignore[no-untyped-def]
    """a where a > b, else b; a nan in b stays."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return LANES(LANES, LANES), codegen


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c lane by lane, fused where the processor can."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(_VEC, [_VEC] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v8f64")
        return builder.call(function, args)

    return LANES(LANES, LANES, LANES), codegen


@intrinsic
def total(typingctx, a):  # type: ignore[no-untyped-def]
    """Sum of the eight lanes."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        item = [
            builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(WIDTH)
        ]
        while len(item) > 1:
            item = [builder.fadd(item[2 * i], item[2 * i + 1]) for i in range(len(item) // 2)]
        return item[0]

    return types.float64(LANES), codegen


_MAGIC = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer kept in the low bits
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# 1/j!, j = 13 ... 2; the truncation error at |r| <= ln2/2 is below 5e-18
_FACTORIALS = [1.0 / float(np.prod(np.arange(1.0, j + 1))) for j in range(13, 1, -1)]


@intrinsic
def exp(typingctx, x):  # type: ignore[no-untyped-def]
    """e^x lane by lane, within 2 ulp; 0 and subnormals as in IEEE, inf above 709.78, nan kept.

    x = k ln2 + r, |r| <= ln2 / 2, a degree-13 Taylor polynomial in r, scaled by 2^k in two exact
    factors so that results below 2^-1022 underflow gradually.

    Returns:
        The intrinsic's signature and code generator.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(_VEC, [_VEC] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v8f64")
        (x,) = args
        low, high = _const(-746.0), _const(710.0)
        x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
        x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
        shifted = builder.call(fused, [x, _const(1.4426950408889634), _const(_MAGIC)])
        k = builder.fsub(shifted, _const(_MAGIC))
        r = builder.call(fused, [k, _const(-_LN2_HIGH), x])
        r = builder.call(fused, [k, _const(-_LN2_LOW), r])
        p = _const(_FACTORIALS[0])
        for c in _FACTORIALS[1:]:
            p = builder.call(fused, [p, r, _const(c)])
        p = builder.fadd(builder.call(fused, [builder.fmul(r, r), p, r]), _const(1.0))
        magic_bits = int(np.float64(_MAGIC).view(np.int64))
        bits = builder.sub(
            builder.bitcast(shifted, _IVEC), ir.Constant(_IVEC, [magic_bits] * WIDTH)
        )
        half = builder.ashr(bits, ir.Constant(_IVEC, [1] * WIDTH))
        for power in (half, builder.sub(bits, half)):
            biased = builder.add(power, ir.Constant(_IVEC, [1023] * WIDTH))
            scale = builder.shl(biased, ir.Constant(_IVEC, [52] * WIDTH))
            p = builder.fmul(p, builder.bitcast(scale, _VEC))
        return p

    return LANES(LANES), codegen


def zeros(size: int) -> np.ndarray:
    """A zeroed flat float64 array whose data start on a cache line.

    Args:
        size: Number of doubles.

    Returns:
        Array of shape (size,).

    Example:
        >>> zeros(3).ctypes.data % 64
        0
    """
    raw = np.zeros(size + WIDTH)
    skip = (-raw.ctypes.data // 8) % WIDTH
    return raw[skip : skip + size]


def padded(size: int) -> int:
    """The next multiple of eight.

    Args:
        size: A length.

    Returns:
        Least multiple of eight that is not below `size`.

    Example:
        >>> padded(9)
        16
    """
    return -(-size // WIDTH) * WIDTH


def token_lanes(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens in the engine's layout: token (k, i) is row k L + i, zero padding.

    Args:
        X: Tokens, shape (N, n, D).

    Returns:
        Flat (n L, D') and its transpose, flat (D', n L), L and D' the padded N and D.

    Example:
        >>> rows, cols = token_lanes(np.ones((2, 3, 4)))
        >>> rows.size, float(rows.sum())
        (192, 24.0)
    """
    N, n, D = X.shape
    L, wide = padded(N), padded(D)
    rows, cols = zeros(n * L * wide), zeros(wide * n * L)
    rows.reshape(n, L, wide)[:, :N, :D] = X.transpose(1, 0, 2)
    cols.reshape(wide, n * L)[:] = rows.reshape(n * L, wide).T
    return rows, cols


WIDE = bool(get_host_cpu_features().get("avx512f"))
"""Whether the sums of a 4 x 16 tile stay in registers: 256-bit ones are too few, and tiles of 4 x 8
take half the time. The order of the additions, hence every bit, is the same."""


@njit(nogil=True)
def _product_small(A, a0, lda, B, b0, ldb, C, c0, ldc, rows, inner, cols):  # type: ignore[no-untyped-def]
    """Register tiles of 4 x 16 and 4 x 8; a short last tile computes its last row again."""
    for r in range(0, rows, 4):
        r1, r2, r3 = min(r + 1, rows - 1), min(r + 2, rows - 1), min(r + 3, rows - 1)
        i0, i1, i2, i3 = a0 + r * lda, a0 + r1 * lda, a0 + r2 * lda, a0 + r3 * lda
        o0, o1, o2, o3 = c0 + r * ldc, c0 + r1 * ldc, c0 + r2 * ldc, c0 + r3 * ldc
        j = 0
        while WIDE and j + 16 <= cols:
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = splat(0.0)
            at_b = b0 + j
            for p in range(inner):
                u, v = load(B, at_b), load(B, at_b + 8)
                a = at(A, i0 + p)
                s0, t0 = fma(a, u, s0), fma(a, v, t0)
                a = at(A, i1 + p)
                s1, t1 = fma(a, u, s1), fma(a, v, t1)
                a = at(A, i2 + p)
                s2, t2 = fma(a, u, s2), fma(a, v, t2)
                a = at(A, i3 + p)
                s3, t3 = fma(a, u, s3), fma(a, v, t3)
                at_b += ldb
            store(C, o0 + j, s0)
            store(C, o0 + j + 8, t0)
            store(C, o1 + j, s1)
            store(C, o1 + j + 8, t1)
            store(C, o2 + j, s2)
            store(C, o2 + j + 8, t2)
            store(C, o3 + j, s3)
            store(C, o3 + j + 8, t3)
            j += 16
        while j < cols:
            s0 = s1 = s2 = s3 = splat(0.0)
            at_b = b0 + j
            for p in range(inner):
                u = load(B, at_b)
                s0, s1 = fma(at(A, i0 + p), u, s0), fma(at(A, i1 + p), u, s1)
                s2, s3 = fma(at(A, i2 + p), u, s2), fma(at(A, i3 + p), u, s3)
                at_b += ldb
            store(C, o0 + j, s0)
            store(C, o1 + j, s1)
            store(C, o2 + j, s2)
            store(C, o3 + j, s3)
            j += 8


BLAS_FROM = 8_000_000
"""Multiplications from which BLAS is faster than the register tiles (measured)."""


@njit(nogil=True)
def product(A, a0, lda, B, b0, ldb, C, c0, ldc, rows, inner, cols):  # type: ignore[no-untyped-def]
    """C[c0 + r ldc + j] = sum_p A[a0 + r lda + p] B[b0 + p ldb + j] on flat arrays.

    BLAS is used for large products whose operands have no gaps (inner = lda, cols = ldb = ldc).

    Args:
        A: Left factor, rows x inner at offset a0, row stride lda.
        a0: Offset of A.
        lda: Row stride of A.
        B: Right factor, inner x cols at offset b0, row stride ldb; cols is a multiple of 8.
        b0: Offset of B.
        ldb: Row stride of B.
        C: Result, rows x cols at offset c0, row stride ldc.
        c0: Offset of C.
        ldc: Row stride of C.
        rows: Rows of the result.
        inner: Length of the contraction.
        cols: Columns of the result.
    """
    if rows * inner * cols >= BLAS_FROM and lda == inner and ldb == cols and ldc == cols:
        np.dot(
            A[a0 : a0 + rows * inner].reshape(rows, inner),
            B[b0 : b0 + inner * cols].reshape(inner, cols),
            out=C[c0 : c0 + rows * cols].reshape(rows, cols),
        )
    else:
        _product_small(A, a0, lda, B, b0, ldb, C, c0, ldc, rows, inner, cols)
