"""Unit tests of gateway.routing."""
