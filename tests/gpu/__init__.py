"""Checks that need an NVIDIA GPU; no other test runs them."""
