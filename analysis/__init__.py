"""What registers change: token norms, attention and more, with figures and a report."""
