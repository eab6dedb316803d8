"""The tables of docs/benchmarking.md that say what a campaign may hold, made of the settings themselves.

python -m loadtests.campaign.reference
"""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from loadtests.campaign.settings import FIELDS, REQUIRED, Campaign, ScenarioSettings, TargetSettings

_TITLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The campaign", Campaign),
    ("Each of `scenarios`", ScenarioSettings),
    ("Each of `targets`", TargetSettings),
)


def reference() -> str:
    """Markdown: one table for each part of the file, and one of which fields a kind of scenario takes."""
    parts = [_table(title, model) for title, model in _TITLES]
    kinds = ["### Which fields a kind takes", "", "| kind | fields, those it cannot do without in bold |", "|---|---|"]
    for kind, fields in FIELDS.items():
        needed = REQUIRED.get(kind, ())
        names = [*(f"**`{name}`**" for name in needed), *(f"`{name}`" for name in fields if name not in needed)]
        kinds.append(f"| `{kind}` | {', '.join(names)} |")
    return "\n\n".join([*parts, "\n".join(kinds)]) + "\n"


def _table(title: str, model: type[BaseModel]) -> str:
    rows = [f"| `{name}` | {_default(field)} | {_text(field)} |" for name, field in model.model_fields.items()]
    return "\n".join([f"### {title}", "", "| field | default | |", "|---|---|---|", *rows])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return ""
    return (
        {True: "on", False: "off"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


if __name__ == "__main__":
    print(reference(), end="")
