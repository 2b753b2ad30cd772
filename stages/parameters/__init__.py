"""params.yaml: one file a section, so that a stage depends on the settings it reads, no others."""
