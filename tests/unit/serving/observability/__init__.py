"""Tests of serving/observability."""
