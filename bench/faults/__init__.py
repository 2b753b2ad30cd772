"""Hostile, damaged and interrupted: what a user's files and a pulled plug must not do to a run."""
