"""What docs/routing.md and docs/reliability.md show to be pasted is a configuration that `gateway check` accepts."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from gateway.check import main as check
from gateway.settings import Settings
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
    written.write_text(contract("digits").to_json())
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(whole(yaml.safe_load(text))).replace(CONTRACT, str(written)))
    assert check([str(file)]) == 0, capsys.readouterr()
