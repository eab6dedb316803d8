"""Benchmarks: not collected by `make test`; `make bench-codecs` and `make bench-gateway` run them."""
