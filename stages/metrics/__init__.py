"""Figures of merit, computed from predictions."""
