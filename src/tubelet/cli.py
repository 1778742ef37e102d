"""The command line, `tubelet`."""
