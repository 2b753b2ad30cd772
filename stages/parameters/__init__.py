"""params.yaml, checked whole on reading; one file a section."""

from stages.parameters.reading import Parameters, read_parameters

__all__ = ["Parameters", "read_parameters"]
