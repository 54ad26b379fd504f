"""Models side by side, over pairs and over epochs."""
