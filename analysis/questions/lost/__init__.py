"""The analysis `lost`."""
