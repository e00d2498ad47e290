"""What a record asks of one replica, with the Jacobian's rows made one after the other.

A row of J belongs to an output (i, k, a). By block and head it is

    W_Q    x_k tensor sum_j S_kj (k_j - kbar_k) v_ja / sqrt(d)          kbar_k = (S k)_k
    W_K    sum_j S_kj (v_ja - vbar_ka) x_j tensor q_k / sqrt(d)         vbar_k = (S v)_k
    W_V    (S X)_k tensor W_O[:, a]

and for the Gaussian kernel -(q_k - k_j) takes the place of k_j - kbar_k, and the row of W_K is
sum_j S_kj v_ja x_j tensor (q_k - k_j) / sqrt(d). The gradient J^T (F - y) that comes of them shares
no line with gdconv.compiled.attention, whose steps it is held against. Formulas and meaning of the
numbers: gdconv.models.multihead.probes, which does the same in torch.
"""

from __future__ import annotations

import numpy as np

from gdconv.compiled.attention import Array
from gdconv.compiled.cache import njit

NUMBERS = (
    "noise_scale", "jacobian_error", "jacobian_norm", "weight_norm", "residual_norm", "entropy",
)  # fmt: skip
"""What `probe` writes to `out`, in this order."""

UNIT = 2.0**-53


@njit(nogil=True)
def _add_product(A, B, out):  # type: ignore[no-untyped-def]
    """Out += A B, four rows of B at a time: out is loaded and stored less often."""
    (rows, inner), columns = A.shape, B.shape[1]
    whole = inner - inner % 4
    for i in range(rows):
        for x in range(0, whole, 4):
            a, b, e, f = A[i, x], A[i, x + 1], A[i, x + 2], A[i, x + 3]
            for c in range(columns):
                s = a * B[x, c] + b * B[x + 1, c]
                out[i, c] += s + (e * B[x + 2, c] + f * B[x + 3, c])
        for x in range(whole, inner):
            for c in range(columns):
                out[i, c] += A[i, x] * B[x, c]


@njit(nogil=True)
def _product(A, B, out):  # type: ignore[no-untyped-def]
    """Out = A B."""
    out[:] = 0.0
    _add_product(A, B, out)


@njit(nogil=True)
def _packed(blocks, column, out):  # type: ignore[no-untyped-def]
    """Matrices (H, D, c) side by side in columns of `out`, from one column on."""
    for h in range(blocks.shape[0]):
        for x in range(blocks.shape[1]):
            for c in range(blocks.shape[2]):
                out[x, column + h * blocks.shape[2] + c] = blocks[h, x, c]


@njit(nogil=True)
def _taken(Z, row, column, out):  # type: ignore[no-untyped-def]
    """A block of Z."""
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = Z[row + r, column + c]


@njit(nogil=True)
def _square(A):  # type: ignore[no-untyped-def]
    """Sum of squares."""
    total = 0.0
    flat = A.ravel()
    for x in range(len(flat)):
        total += flat[x] * flat[x]
    return total


@njit(nogil=True)
def _length(row):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(row)):
        total += row[c] * row[c]
    return np.sqrt(total)


@njit(nogil=True)
def _weights(gaussian, q, k, S):  # type: ignore[no-untyped-def]
    """S_kj = exp(s_kj) over the row's sum (softmax), or exp(-|q_k - k_j|^2 / (2 sqrt d))."""
    n, d = q.shape
    root = np.sqrt(d)
    for r in range(n):
        top = -np.inf
        for j in range(n):
            s = 0.0
            for c in range(d):
                gap = q[r, c] - k[j, c]
                s += gap * gap if gaussian else q[r, c] * k[j, c]
            S[r, j] = -s / (2.0 * root) if gaussian else s / root
            top = max(top, S[r, j])
        whole = 0.0
        for j in range(n):
            S[r, j] = np.exp(S[r, j] if gaussian else S[r, j] - top)
            whole += S[r, j]
        if not gaussian:
            for j in range(n):
                S[r, j] = S[r, j] / whole


@njit(nogil=True)
def _entropy(S):  # type: ignore[no-untyped-def]
    """Sum over rows of -p log p, p the row over its sum."""
    total = 0.0
    for r in range(S.shape[0]):
        whole = 0.0
        for j in range(S.shape[1]):
            whole += S[r, j]
        whole = max(whole, np.finfo(np.float64).tiny)
        for j in range(S.shape[1]):
            p = S[r, j] / whole
            if p > 0.0:
                total -= p * np.log(p)
    return total


@njit(nogil=True)
def _rounded_scores(gaussian, q, k, q_abs, k_abs, v, mean, S, out):  # type: ignore[no-untyped-def]
    """out_ka += sum_j S_kj |error of the score over u| |what it weighs|."""
    n, d = q.shape
    root = np.sqrt(d)
    for r in range(n):
        for j in range(n):
            s = 0.0
            for c in range(d):
                if gaussian:
                    s += abs(q[r, c] - k[j, c]) * (q_abs[r, c] + k_abs[j, c])
                else:
                    s += q_abs[r, c] * k_abs[j, c]
            s *= S[r, j] / root
            for a in range(v.shape[1]):
                out[r, a] += s * abs(v[j, a] if gaussian else v[j, a] - mean[r, a])


@njit(nogil=True)
def _terms(x, q, k, v, S):  # type: ignore[no-untyped-def]
    """Squared size of the terms of J_Q and J_K before they cancel, without 1 / d."""
    n = len(x)
    q_size, k_size, v_size = np.empty(n), np.empty(n), np.empty(n)
    far_q = far_k = 0.0
    for r in range(n):
        q_size[r], k_size[r], v_size[r] = _length(q[r]), _length(k[r]), _length(v[r])
        far_q, far_k = max(far_q, q_size[r]), max(far_k, k_size[r])
    total = 0.0
    for r in range(n):
        by_query = by_key = 0.0
        for j in range(n):
            u = S[r, j] * v_size[j]
            by_query += u * (k_size[j] + far_q)
            by_key += u * x[j]
        total += (x[r] * by_query) ** 2 + ((q_size[r] + far_k) * by_key) ** 2
    return total


@njit(nogil=True)
def _query_rows(gaussian, X, q, k, v, mean_k, S, R, g, row, pull):  # type: ignore[no-untyped-def]
    """Rows of J_Q of one sample and head: J^T R added to g; sum of squares."""
    n, d = q.shape
    root, total = np.sqrt(d), 0.0
    pull[:] = 0.0
    for r in range(n):
        length = _length(X[r]) ** 2
        for a in range(v.shape[1]):
            row[:] = 0.0
            for j in range(n):
                s = S[r, j] * v[j, a] / root
                for c in range(d):
                    row[c] += s * (k[j, c] - (q[r, c] if gaussian else mean_k[r, c]))
            total += length * _length(row) ** 2
            for c in range(d):
                pull[r, c] += R[r, a] * row[c]
    _add_product(X.T, pull, g)
    return total


@njit(nogil=True)
def _key_rows(X, q, v, mean_v, S, R, g, row, pull):  # type: ignore[no-untyped-def]
    """Rows of J_K of one sample and head, softmax: J^T R added to g; sum of squares."""
    n, d = q.shape
    root, total = np.sqrt(d), 0.0
    pull[:] = 0.0
    for r in range(n):
        length = _length(q[r]) ** 2
        for a in range(v.shape[1]):
            row[:] = 0.0
            for j in range(n):
                s = S[r, j] * (v[j, a] - mean_v[r, a]) / root
                for x in range(X.shape[1]):
                    row[x] += s * X[j, x]
            total += length * _length(row) ** 2
            for x in range(X.shape[1]):
                pull[r, x] += R[r, a] * row[x]
    _add_product(pull.T, q, g)
    return total


@njit(nogil=True)
def _key_blocks(X, q, k, v, S, R, g, block):  # type: ignore[no-untyped-def]
    """The same, Gaussian: a row is a matrix (D, d) of rank n."""
    (n, d), D = q.shape, X.shape[1]
    root, total = np.sqrt(d), 0.0
    for r in range(n):
        for a in range(v.shape[1]):
            block[:] = 0.0
            for j in range(n):
                s = S[r, j] * v[j, a] / root
                for x in range(D):
                    for c in range(d):
                        block[x, c] += s * X[j, x] * (q[r, c] - k[j, c])
            total += _square(block)
            for x in range(D):
                for c in range(d):
                    g[x, c] += R[r, a] * block[x, c]
    return total


@njit(nogil=True)
def _value_rows(SX, W_O, R, g, pull):  # type: ignore[no-untyped-def]
    """Rows of J_V of one sample and head: J^T R added to g; sum of squares."""
    lengths = 0.0
    for r in range(len(SX)):
        lengths += _length(SX[r]) ** 2
        for c in range(len(W_O)):
            pull[r, c] = 0.0
            for a in range(W_O.shape[1]):
                pull[r, c] += R[r, a] * W_O[c, a]
    _add_product(SX.T, pull, g)
    return lengths * _square(W_O)


@njit(nogil=True)
def _probe(gaussian, X, y, W_Q, W_K, W_V, W_O, trained, g_Q, g_K, g_V, out):  # type: ignore[no-untyped-def]
    """Write the gradient J^T (F - y) and the numbers of a record.

    Args:
        gaussian: Gaussian kernel instead of softmax.
        X: Tokens (N, n, D).
        y: Targets (N, n, D_y).
        W_Q: Query weights (H, D, d).
        W_K: Key weights, likewise.
        W_V: Value weights, likewise.
        W_O: Output weights (H, d, D_y).
        trained: Three flags, for Q, K, V.
        g_Q: Gradient by W_Q, overwritten; also that of a frozen block.
        g_K: By W_K.
        g_V: By W_V.
        out: The numbers of `NUMBERS`, overwritten.
    """
    (N, n, D), (H, _, d), outputs = X.shape, W_Q.shape, W_O.shape[2]
    keys, values, columns = H * d, 2 * H * d, H * (2 * d + outputs)
    tokens, VO = X.reshape(N * n, D), np.empty((2, H, D, outputs))
    for h in range(H):
        _product(W_V[h], W_O[h], VO[0, h])
        _product(np.abs(W_V[h]), np.abs(W_O[h]), VO[1, h])
    W, Z, Z_abs = np.empty((D, columns)), np.empty((N * n, columns)), np.empty((N * n, columns))
    _packed(W_Q, 0, W)
    _packed(W_K, keys, W)
    _packed(VO[0], values, W)
    _product(tokens, W, Z)
    _packed(VO[1], values, W)
    _product(np.abs(tokens), np.abs(W), Z_abs)
    q, k, v = np.empty((H, n, d)), np.empty((H, n, d)), np.empty((H, n, outputs))
    mean_k, mean_v = np.empty((H, n, d)), np.empty((H, n, outputs))
    q_abs, k_abs, sizes = np.empty((n, d)), np.empty((n, d)), np.empty((n, outputs))
    S, SX, x = np.empty((H, n, n)), np.empty((n, D)), np.empty(n)
    F, R, wide = np.empty((n, outputs)), np.empty((n, outputs)), np.empty((n, outputs))
    large, rounded = np.empty((n, outputs)), np.empty((n, outputs))
    row, pull, long_row, long_pull = np.empty(d), np.empty((n, d)), np.empty(D), np.empty((n, D))
    block = np.empty((D, d))
    g_Q[:], g_K[:], g_V[:] = 0.0, 0.0, 0.0
    J_Q = J_K = J_V = of_F = of_R = of_large = of_rounded = terms = entropy = 0.0
    for i in range(N):
        F[:], large[:], rounded[:] = 0.0, 0.0, 0.0
        for r in range(n):
            x[r] = _length(X[i, r])
        for h in range(H):
            _taken(Z, i * n, h * d, q[h])
            _taken(Z, i * n, keys + h * d, k[h])
            _taken(Z, i * n, values + h * outputs, v[h])
            _weights(gaussian, q[h], k[h], S[h])
            _product(S[h], v[h], mean_v[h])
            _product(S[h], k[h], mean_k[h])
            _taken(Z_abs, i * n, h * d, q_abs)
            _taken(Z_abs, i * n, keys + h * d, k_abs)
            _taken(Z_abs, i * n, values + h * outputs, sizes)
            _product(S[h], sizes, wide)
            for r in range(n):
                for a in range(outputs):
                    F[r, a] += mean_v[h, r, a]
                    large[r, a] += wide[r, a]
            _rounded_scores(gaussian, q[h], k[h], q_abs, k_abs, v[h], mean_v[h], S[h], rounded)
            terms += _terms(x, q[h], k[h], v[h], S[h])
            entropy += _entropy(S[h])
        for r in range(n):
            for a in range(outputs):
                R[r, a] = F[r, a] - y[i, r, a]
        of_F, of_R = of_F + _square(F), of_R + _square(R)
        of_large, of_rounded = of_large + _square(large), of_rounded + _square(rounded)
        for h in range(H):
            at = X[i], q[h], k[h], v[h]
            J_Q += _query_rows(gaussian, *at, mean_k[h], S[h], R, g_Q[h], row, pull)
            if gaussian:
                J_K += _key_blocks(*at, S[h], R, g_K[h], block)
            else:
                args = X[i], q[h], v[h], mean_v[h], S[h]
                J_K += _key_rows(*args, R, g_K[h], long_row, long_pull)
            _product(S[h], X[i], SX)
            J_V += _value_rows(SX, W_O[h], R, g_V[h], pull)
    w_Q, w_K, w_V = _square(W_Q), _square(W_K), _square(W_V)
    scale = np.sqrt(of_F) + np.sqrt(_square(y)) + np.sqrt(of_large) + np.sqrt(of_rounded)
    scale += np.sqrt(J_Q * w_Q) + np.sqrt(J_K * w_K) + np.sqrt(J_V * w_V)
    norm = np.sqrt(trained[0] * J_Q + trained[1] * J_K + trained[2] * J_V)
    out[0] = 8.0 * UNIT * scale
    out[1] = UNIT * (64.0 * norm + 16.0 * np.sqrt(terms / d))
    out[2] = norm
    out[3] = np.sqrt(trained[0] * w_Q + trained[1] * w_K + trained[2] * w_V)
    out[4] = np.sqrt(of_R)
    out[5] = entropy / (H * N * n * np.log(n)) if n > 1 else 0.0


def probe(
    kernel: str, X: Array, y: Array, weights: tuple[Array, Array, Array, Array], trained: str
) -> tuple[dict[str, float], Array]:
    """The numbers of a record and the gradient J^T (F - y), at one replica.

    Args:
        kernel: "softmax" or "gaussian".
        X: Tokens (N, n, D), as all arrays float64 and contiguous.
        y: Targets (N, n, D_y).
        weights: W_Q, W_K, W_V, each (H, D, d), and W_O (H, d, D_y).
        trained: Blocks by which the Jacobian's norm and rounding are taken, some of "QKV".

    Returns:
        The numbers by name, and the gradient by W_Q, W_K and W_V in one array (3, H, D, d), all
        of it whatever is trained.

    Example:
        >>> one = np.ones((1, 1, 1))
        >>> numbers, (g_Q, g_K, g_V) = probe("softmax", one, 0 * one, (one, one, one, one), "QKV")
        >>> numbers["jacobian_norm"], numbers["residual_norm"], g_V.item()
        (1.0, 1.0, 1.0)
    """
    flags = np.array([block in trained for block in "QKV"], dtype=np.float64)
    slopes, out = np.empty((3, *weights[0].shape)), np.empty(len(NUMBERS))
    _probe(kernel == "gaussian", X, y, *weights, flags, *slopes, out)
    return dict(zip(NUMBERS, out.tolist(), strict=True)), slopes
