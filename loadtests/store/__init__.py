"""Every request of every run: sealed into Parquet round by round, queried with DuckDB."""

from loadtests.store.runs import Runs
from loadtests.store.seal import seal_round, torn_streams
from loadtests.store.stored import StoredRun

__all__ = ["Runs", "StoredRun", "seal_round", "torn_streams"]
