"""From PyTorch checkpoints to Flax and back."""
