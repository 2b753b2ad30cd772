"""Architectures by name, one file each."""
