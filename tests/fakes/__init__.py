"""Scripted model servers inside the test's own process, after the servers' wire facts and not after our codecs."""
