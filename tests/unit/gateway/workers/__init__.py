"""Tests of gateway/workers."""
