"""Loss landscapes of both attention kernels."""
