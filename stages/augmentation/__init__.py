"""Random variation of training images, batched and seeded."""
