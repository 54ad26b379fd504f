"""The analysis `probe`."""
