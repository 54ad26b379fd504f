"""The analysis `attention`."""
