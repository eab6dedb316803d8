"""`make bench-gateway`: what the gateway costs and gains, beside TorchServe, Envoy and bare servers."""
