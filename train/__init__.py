"""Training DeiT-III with registers: recipe, step, loop."""
