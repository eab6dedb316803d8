"""The report of a campaign: one HTML file, and the same figures as Markdown, JSON, CSV and a picture."""

from loadtests.campaign_report.write import FORMATS, write

__all__ = ["FORMATS", "write"]
