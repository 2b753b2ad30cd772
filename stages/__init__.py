"""The pipeline: one script a DVC stage, and the packages they share."""
