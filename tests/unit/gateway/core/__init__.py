"""Unit tests of gateway.core."""
