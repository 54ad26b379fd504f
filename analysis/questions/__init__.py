"""One folder for each analysis."""
