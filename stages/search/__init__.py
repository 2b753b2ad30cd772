"""Search for better settings: Optuna proposes, DVC experiments run and remember."""
