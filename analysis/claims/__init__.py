"""The study's claims, and what results say of them."""
