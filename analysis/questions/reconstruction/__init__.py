"""The analysis `reconstruction`."""
