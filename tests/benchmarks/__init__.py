"""Benchmarks: not collected by `make test`; `make bench-codecs` runs them."""
