"""Models in closed form, one a file."""
