"""From image files to fixed-size pixels."""
