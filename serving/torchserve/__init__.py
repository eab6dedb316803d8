"""Our TorchServe: its handler and configuration."""
