"""Growth of the attention Hessian with the scale of the data."""
