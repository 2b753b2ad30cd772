"""Where images come from: known sets, archives, folders, tables; local or remote."""
