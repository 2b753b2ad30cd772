"""Code review: what a change does to data, settings and results, as a Markdown comment."""
