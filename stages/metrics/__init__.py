"""How good a classifier is: scores, curves, calibration. Arrays in, plain numbers out."""
