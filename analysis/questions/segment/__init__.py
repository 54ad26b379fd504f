"""The analysis `segment`."""
