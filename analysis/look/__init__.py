"""A photograph seen through models: norms, attention, features, outliers, in one picture."""
