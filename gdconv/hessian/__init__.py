"""The attention Hessian in closed form: blocks, split, operators, spectra.

`layer` describes the layer, `blocks` gives dense matrices (`moments`: the softmax formulas),
`operators` matrix-vector products, `spectra` and `density` eigenvalues with error bounds; for the
model of the gradient-descent theorems see `models.multihead.hessian`. Derivations:
docs/theory/attention-hessian.md.
"""
