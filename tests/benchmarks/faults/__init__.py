"""How soon, how much and how well: the times of `make test-faults`, beside what they should be."""
