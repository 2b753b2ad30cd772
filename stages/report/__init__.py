"""The results of a run for people: one self-contained page, and a headline on the console."""
