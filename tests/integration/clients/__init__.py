"""Third-party clients and servers, each in an environment of its own, against the gateway as users run it."""
