"""What pytest must not import here."""

collect_ignore = ["mutants.py"]  # needs cosmic-ray, which only make mutants installs
