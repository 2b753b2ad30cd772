"""Running a trained model over images: class probabilities, and what they rest on."""
