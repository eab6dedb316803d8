"""Every variant beside its own eager: `make bench-variants`."""
