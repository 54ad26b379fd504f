"""The page: what was found, for a reader who was not there."""
