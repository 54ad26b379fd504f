"""Speed and memory against PyTorch, measured side by side in one run."""
