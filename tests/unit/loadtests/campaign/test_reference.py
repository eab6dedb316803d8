"""The guide says what the settings say."""

from __future__ import annotations

import re
from pathlib import Path

from loadtests.campaign.reading import campaign_of
from loadtests.campaign.reference import reference

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "benchmarking.md"


def test_the_reference_of_the_guide_is_made_of_the_settings() -> None:
    """`python -m loadtests.campaign.reference` prints it anew."""
    assert reference() in GUIDE.read_text("utf-8")


def test_every_campaign_of_the_guide_is_one() -> None:
    """They are there to be copied."""
    found = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(found) >= 3
    for text in found:
        campaign_of(text, "docs/benchmarking.md", built_models=["simplenn", "digits"])
