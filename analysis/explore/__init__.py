"""Photographs and models in one HTML file, in which every token can be asked where it attends."""
