"""Every request of every run: sealed into Parquet round by round, queried with DuckDB."""

from loadtests.store.folder import RunFolder
from loadtests.store.runs import Runs
from loadtests.store.seal import seal_round, torn_streams

__all__ = ["RunFolder", "Runs", "seal_round", "torn_streams"]
