"""The report: one HTML file that opens offline, on a phone and in print."""

from loadtests.report.page import write_report

__all__ = ["write_report"]
