"""The gateway's container: its Dockerfile and the configuration it starts with."""
