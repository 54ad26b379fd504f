"""The analysis `norms`."""
