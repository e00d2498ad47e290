"""Kernel change and rates over the width."""
