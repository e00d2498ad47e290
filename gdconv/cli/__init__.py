"""The command `gdconv`."""
