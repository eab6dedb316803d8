"""Zero-wait batching: what queues while an endpoint is busy goes out together, and nothing ever waits for company."""
