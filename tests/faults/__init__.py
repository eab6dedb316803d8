"""What must hold while things break: `make test-faults`."""
