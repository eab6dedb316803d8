"""The guide says what the settings say, and what its campaigns take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtests.addresses import Addresses, Endpoints
from loadtests.campaign.plan import plan_of, plan_text
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.reference import reference
from loadtests.campaign.targets import targets_of

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "benchmarking.md"
CAMPAIGNS = re.findall(r"```yaml\n(.*?)```(.*?)(?=```yaml|\Z)", GUIDE.read_text("utf-8"), re.DOTALL)
BUILT = ("torchscript", "aotinductor", "onnx", "savedmodel", "xla")
VARIANTS = {name: "tfserving" if name in ("savedmodel", "xla") else "torchserve" for name in BUILT}
MODELS = {"simplenn": VARIANTS, "digits": VARIANTS}


def planned(text: str) -> tuple[str, float]:
    """The first line of a campaign's plan, and its seconds."""
    campaign = campaign_of(text, "docs/benchmarking.md", name="campaign", built_models=MODELS)
    found = targets_of(campaign, MODELS, Addresses(), {}, endpoints=Endpoints())
    plan = plan_of(campaign, {model: [target for target, _ in pairs] for model, pairs in found.items()})
    return plan_text(campaign, plan)[0], plan.seconds


def test_the_reference_of_the_guide_is_made_of_the_settings() -> None:
    """`python -m loadtests.campaign.reference` prints it anew."""
    assert reference() in GUIDE.read_text("utf-8")


def test_the_first_campaign_of_the_guide_takes_less_than_an_hour_and_its_plan_is_printed() -> None:
    """Whoever copies it knows before it begins."""
    text, prose = CAMPAIGNS[0]
    line, seconds = planned(text)
    assert seconds < 3600
    assert f"{line}\n" in prose


@pytest.mark.parametrize(("text", "prose"), CAMPAIGNS)
def test_the_guide_says_how_long_each_of_its_campaigns_takes(text: str, prose: str) -> None:
    """They are there to be copied: each is one, and the planner's time stands beneath it."""
    line, _ = planned(text)
    assert line.rpartition(": about ")[2].rstrip(".") in prose.replace("\n", " ")


def test_what_the_guide_says_of_more_scenarios_and_targets_is_the_planners() -> None:
    """The lines that it shows are added to the first campaign as they are."""
    text, prose = CAMPAIGNS[0]
    more = text + "".join(line[4:] for line in re.findall(r"^      - \{name: .*\n", prose, re.MULTILINE))
    every = re.sub(r"^targets: .*$", "targets: [all]", more, flags=re.MULTILINE)
    for one in (more, every):
        assert planned(one)[0].rpartition(": about ")[2].rstrip(".") in prose.replace("\n", " ")
