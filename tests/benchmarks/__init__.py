"""Benchmarks: not collected by `make test`; `make bench-codecs` runs them."""
"""Benchmarks, each a command of its own (`make bench-gateway`); none is collected as a test."""
