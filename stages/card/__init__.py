"""The model card: what travels with the model for people who did not train it."""
