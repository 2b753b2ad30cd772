"""The one self-contained page."""
