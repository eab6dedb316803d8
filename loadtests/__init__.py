"""Locust measures both stacks, direct and through the gateway."""
