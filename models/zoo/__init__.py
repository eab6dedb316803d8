"""One folder per model: its data, and its network in both frameworks side by side."""
