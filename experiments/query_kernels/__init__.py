"""kappa_0 of both attention kernels over scale and shape."""
