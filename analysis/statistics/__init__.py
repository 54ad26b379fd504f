"""Statistics that know nothing of transformers."""
