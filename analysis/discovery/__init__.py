"""Finding objects without labels, and what is known of them."""
