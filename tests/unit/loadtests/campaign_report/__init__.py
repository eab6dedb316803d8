"""Unit tests of the campaign report."""
