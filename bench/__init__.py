"""Measured claims: `python -m bench.NAME [--data ZIP]`, one JSON line at the end of each."""
