"""The protocols that clients speak: each front end decodes, calls the data plane, encodes."""
