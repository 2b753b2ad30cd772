"""Which images train, which choose, which judge."""
