"""The whole gateway in one process, with fake model servers."""
