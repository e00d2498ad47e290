"""Any differentiable model: a torch module with a loss, and the constants that its layers prove."""
