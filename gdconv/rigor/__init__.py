"""Numbers with a proved radius: rounding, singular values, spectra, balls, inertia."""
