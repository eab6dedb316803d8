"""Real model servers."""
