"""The analysis `ablate`."""
