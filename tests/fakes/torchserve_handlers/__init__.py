"""Handlers such as TorchServe's users have: the real TorchServe runs them, and they import nothing of ours."""
