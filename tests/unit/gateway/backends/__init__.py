"""Tests of gateway.backends."""
