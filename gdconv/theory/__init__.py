"""The words a theorem is written in."""
