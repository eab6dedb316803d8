"""Unit tests of the exports."""
