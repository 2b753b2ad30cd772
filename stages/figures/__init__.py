"""Figures, drawn by matplotlib from arrays: legible for 2 and for 100 classes, colour-blind safe.

Every function returns a matplotlib `Figure`; `style.save_png` and `style.to_svg` write it, the
same bytes for the same figure. Importing these modules takes matplotlib's half second.
"""
