"""The REST front ends, one FastAPI application."""
