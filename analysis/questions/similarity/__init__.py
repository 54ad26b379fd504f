"""The analysis `similarity`."""
