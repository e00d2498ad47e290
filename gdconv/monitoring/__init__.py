"""Monitor: what a training loop of somebody else does to loss, Jacobian and Hessian."""
