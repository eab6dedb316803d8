"""Which endpoint answers a request, and which endpoints are fit to."""
