"""The attention Hessian in closed form: blocks, split, operators, spectra.

`layer` describes the layer, `blocks` gives dense matrices, `operators` matrix-vector products,
`multihead` both for the model of the gradient-descent theorems, `spectra` and `density` eigenvalues
with error bounds. Derivations: docs/theory/attention-hessian.md.
"""
