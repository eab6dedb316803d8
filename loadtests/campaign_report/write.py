"""Writes the report and its other forms, each whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtests.campaign_report.content import content_of
from loadtests.campaign_report.data import CampaignData, read_campaign
from loadtests.campaign_report.exports import csv_text, json_text, markdown_text, picture_svg
from loadtests.campaign_report.words import share
from loadtests.errors import LoadTestError
from loadtests.store.stored import write_file
from loadtests.words import number, transport_word

Format = Literal["html", "markdown", "json", "csv", "svg"]
FORMATS: tuple[str, ...] = get_args(Format)
_FILES = {
    "html": "report.html",
    "markdown": "report.md",
    "json": "report.json",
    "csv": "report.csv",
    "svg": "report.svg",
}


def write(run: Path, formats: Sequence[str] = ("html",), *, allow_unlike: bool = False) -> list[Path]:
    """Writes the report of a run into its folder, from the raw record alone, and returns the files.

    `allow_unlike` lets cells be compared whose ledgers differ; the title then says so. Raises LoadTestError where the
    run cannot be read, a format is unknown or the disk is full.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise LoadTestError(f"format {', '.join(unknown)}: there are {', '.join(FORMATS)}")
    data = read_campaign(run, allow_unlike=allow_unlike)
    content = content_of(data)
    made = []
    for name in dict.fromkeys(formats):
        path = run / _FILES[name]
        write_file(path, _text(data, content, name))
        made.append(path)
    return made


def _text(data: CampaignData, content: dict[str, Any], form: str) -> str:
    match form:
        case "html":
            return html_text(content)
        case "markdown":
            return markdown_text(content)
        case "json":
            return json_text(data, content)
        case "csv":
            return csv_text(data)
        case _:
            return picture_svg(data, str(content["title"]))


def html_text(content: dict[str, Any]) -> str:
    """The page: one file, no outside reference; its policy admits its own style and script and nothing else."""
    environment = Environment(
        loader=PackageLoader("loadtests.campaign_report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=share, transport=transport_word, typed=shlex.quote)
    style = _source(environment, "style.css")
    script = _source(environment, "page.js")
    return environment.get_template("page.html").render(
        **content,
        # Ours from the first to the last character.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None  # noqa: S101  # given above
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
