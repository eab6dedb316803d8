"""The upstream protocols: one module per stack and transport."""
