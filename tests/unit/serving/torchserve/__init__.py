"""Tests of our TorchServe handler."""
