"""Every variant of the models, built, served and asked: `make test-variants`."""
