"""What docs/routing.md and docs/reliability.md show to be pasted is a configuration that `gateway check` accepts."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

import pytest
import yaml

from gateway.check import main as check
from gateway.core.contract import Parity
from gateway.settings import Settings
from gateway.traffic_settings import PolicyName
from tests.builders import contract

DOCS = Path(__file__).parents[2] / "docs"
CONTRACT = "artifacts/models/digits/contract.json"
# What stands around a part of a file: the reader's own servers and model.
ENDPOINTS = {
    "ts": {"stack": "torchserve", "rest": "http://127.0.0.1:8080", "management": "http://127.0.0.1:8081"},
    "tf": {"stack": "tfserving", "transport": "grpc", "grpc": "127.0.0.1:8500"},
}
MODEL = {"contract": CONTRACT, "targets": [{"endpoint": "ts"}, {"endpoint": "tf"}]}


def shown(page: str) -> list[Any]:
    """The configurations of a page, each with the line that it begins in as its name."""
    text = (DOCS / page).read_text()
    return [
        pytest.param(dedent(found[1]), id=f"{page}:{text[: found.start()].count(chr(10)) + 2}")
        for found in re.finditer(r"```yaml\n(.*?)```", text, re.DOTALL)
    ]


def whole(part: dict[str, Any]) -> dict[str, Any]:
    """A whole file: sections are taken as they are, fields of a model are put into one."""
    if not part.keys() <= Settings.model_fields.keys():
        part = {"models": {"digits": {**MODEL, **part}}}
    return {"endpoints": ENDPOINTS, **part}


@pytest.mark.parametrize("text", [*shown("routing.md"), *shown("reliability.md")])
def test_what_is_shown_can_be_used(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for where the model's contract is."""
    written = tmp_path / "contract.json"
    # As `models build` writes it, once the variants gave the same outputs.
    written.write_text(contract("digits", parity=Parity(passed=True, max_abs=1e-6, max_scaled=1e-7)).to_json())
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(whole(yaml.safe_load(text))).replace(CONTRACT, str(written)))
    assert check([str(file)]) == 0, capsys.readouterr()


def test_each_policy_is_shown_with_its_targets() -> None:
    """One may take any of them without another part of the page."""
    blocks = [yaml.safe_load(block.values[0]) for block in shown("routing.md")]
    complete = {block["policy"] for block in blocks if block.keys() >= {"policy", "targets"}}
    assert complete == set(get_args(PolicyName))


def test_a_canary_is_shown_step_by_step() -> None:
    """Each step is a configuration: the mirror first, a weight with the mirror the other way round, more, and back."""
    text = (DOCS / "routing.md").read_text()
    section = text[text.index("### A canary, step by step") :].partition("\nWhere both versions")[0]
    steps = [yaml.safe_load(dedent(found)) for found in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    weights = [[target.get("weight") for target in step["targets"]] for step in steps]
    assert weights == [[None], [95, 5], [50, 50], [100, 0]]
    assert [step.get("mirror", {}).get("version") for step in steps] == [4, 3, 3, None]
