"""Unit tests of gateway.resilience."""
