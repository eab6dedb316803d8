"""Middleware that keeps one request, or one endpoint, from harming the others."""
