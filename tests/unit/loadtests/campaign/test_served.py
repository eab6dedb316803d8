"""Servers that run already, and a campaign's variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.addresses import Addresses
from loadtests.campaign import session
from loadtests.campaign.fleet import Fleet
from loadtests.campaign.options import Options
from loadtests.campaign.served import get_json, refuse_unserved
from loadtests.errors import LoadTestError
from serving.settings import LaunchSettings
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.test_fleet import state
from tests.unit.loadtests.campaign.worlds import FakeEngine, campaign_text, toy_server

MODELS = {"digits": {"onnx": "torchserve", "xla": "tfserving", "savedmodel-nograppler": "tfserving"}, "toy": {}}
FLEET = Fleet(Addresses(), management="ts:1")


def test_each_variant_is_asked_of_the_server_that_has_it() -> None:
    """By the name under which it is served; a model that has no such variant is not asked for it."""
    asked: list[tuple[str, str]] = []
    refuse_unserved(FLEET, MODELS, ["onnx", "xla", "savedmodel-nograppler"], lambda *way: asked.append(way) or True)
    assert asked == [
        ("ts:1", "/models/digits-onnx"),
        ("127.0.0.1:8501", "/v1/models/digits-xla"),
        ("127.0.0.1:8511", "/v1/models/digits-savedmodel-nograppler"),
    ]


def test_what_is_not_served_is_named_with_what_to_do() -> None:
    """All of it at once."""
    words = r"do not serve digits-onnx, digits-xla: `twinserve down` first, .*`twinserve up --variants onnx,xla`"
    with pytest.raises(LoadTestError, match=words):
        refuse_unserved(FLEET, MODELS, ["onnx", "xla"], lambda *_: None)


def test_a_server_that_does_not_answer_serves_nothing() -> None:
    """Nor does one that answers with an error."""
    assert get_json("127.0.0.1:1", "/models/x") is None
    with toy_server() as address:
        assert get_json(address, "/models/x") is None


def test_a_campaign_of_variants_stops_before_its_first_cell(tmp_path: Path) -> None:
    """Parity off or not: without the variant there is nothing to measure, and no run is left."""
    artifacts = write_toy(tmp_path)
    for name in ("aotinductor", "onnx"):
        (folder := artifacts / "models" / "toy" / "variants" / name).mkdir(parents=True)
        record = {"variant": name, "stack": "torchserve", "available": True}
        (folder / "variant.json").write_text(json.dumps(record))
    settings = LaunchSettings(artifacts=artifacts)
    settings.run_dir.mkdir()
    state().save(settings.run_dir)
    text = campaign_text("", targets=["torchserve-rest"], variants=["onnx"], parity=False)
    options = Options(artifacts, tmp_path / "runs", ("twinserve",), tmp_path / "lock")
    engine = FakeEngine()
    with pytest.raises(LoadTestError, match="the servers that run do not serve toy-onnx"):
        session.run(text, "c", "c", options, Console(quiet=True), engine.seams())
    assert (engine.measured, options.runs.exists()) == ([], False)
