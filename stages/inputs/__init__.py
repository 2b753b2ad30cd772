"""New images, found wherever they are and decoded as in training."""
