"""The attention Hessian (Ormaniec et al. 2025)."""
