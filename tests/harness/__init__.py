"""The load tests' own proof: servers whose latency law is known, and what the harness says of them."""
