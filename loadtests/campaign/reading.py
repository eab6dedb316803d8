"""Reads campaign.yaml, and tells everything that is wrong with it at once, each by its line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loadtests.campaign.lines import Document, NotYamlError, Place, parse
from loadtests.campaign.settings import SHORT_FORMS, Campaign, ScenarioSettings, TargetSettings
from loadtests.cell_spec import Kind
from loadtests.errors import LoadTestError

_MODELS: dict[str, type[BaseModel]] = {"scenarios": ScenarioSettings, "targets": TargetSettings}


class CampaignError(LoadTestError):
    """Raised for a campaign file with mistakes; `problems` are (line, text), in the order of the file."""

    def __init__(self, source: str, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = tuple(sorted(set(problems)))
        count = f"{len(self.problems)} problems" if len(self.problems) != 1 else "1 problem"
        super().__init__("\n".join([f"{source}: {count}", *(f"  line {n}: {text}" for n, text in self.problems)]))


def text_of(path: Path) -> str:
    """The text of a campaign file; raises LoadTestError where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise LoadTestError(f"cannot read the campaign '{path}': {exc}") from exc


def campaign_of(
    text: str,
    source: str,
    *,
    name: str = "campaign",
    built_models: Mapping[str, Collection[str]] | Collection[str] | None = None,
) -> Campaign:
    """The campaign of a file's text; raises CampaignError. `name` is the campaign's where it gives itself none.

    `built_models` may map each model to its variants; then those are checked as well.
    """
    try:
        document = parse(text)
    except NotYamlError as exc:
        raise CampaignError(source, [(exc.line, f"not YAML: {exc}")]) from exc
    if not isinstance(document.value, dict):
        raise CampaignError(source, [(1, "expected fields such as `models:`, `scenarios:` and `targets:`")])
    problems = [(document.line(place), f"{_dotted(place)} is given twice") for place in document.repeated]
    try:
        campaign = Campaign.model_validate({"name": name, **document.value})
    except ValidationError as exc:
        errors = exc.errors()
        # A list whose items are wrong also counts as too short.
        told = [_told(error, document) for error in errors if not _follows(error, errors)]
        if built_models is not None:
            told += [(document.line(place), text) for place, text in _unknown_of(document.value, list(built_models))]
        raise CampaignError(source, [*problems, *told]) from exc
    problems += [(document.line(place), f"{_dotted(place)}: {text}") for place, text in _mistakes(campaign)]
    if built_models is not None:
        problems += [(document.line(place), text) for place, text in _unknown(campaign, list(built_models))]
        problems += [(document.line(place), text) for place, text in _unknown_variants(campaign, built_models)]
    if problems:
        raise CampaignError(source, problems)
    return campaign


def _follows(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    place = error["loc"]
    deeper = (other for other in errors if len(other["loc"]) > len(place) and other["loc"][: len(place)] == place)
    return error["type"] == "too_short" and any(deeper)


def _told(error: ErrorDetails, document: Document) -> tuple[int, str]:
    place: Place = error["loc"]
    while place and place not in document.lines and error["type"] != "missing":
        place = place[:-1]  # what pydantic adds where a field may be of several types
    context = error.get("ctx", {})
    if "field" in context:  # one of our own, about a field of what pydantic points at
        place = (*place, context["field"])
    where = _dotted(place) or "the file"
    return document.line(place), f"{where}: {_words(error, place)}"


def _words(error: ErrorDetails, place: Place) -> str:
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        allowed = list(_fields_at(place[:-1]))
        return f"is not known{_meant(place[-1], allowed)}; allowed: {', '.join(allowed)}"
    if kind == "literal_error":
        allowed = _allowed_at(place) or [error["ctx"]["expected"]]
        return f"'{_short(given)}' is not allowed{_meant(given, allowed)}; allowed: {', '.join(allowed)}"
    if kind in ("model_type", "model_attributes_type") and place[:1] == ("targets",):
        forms = ["all", *SHORT_FORMS]
        return f"'{_short(given)}' is not known{_meant(given, forms)}; allowed: {', '.join(forms)}, or an object"
    if kind in ("wrong_field", "missing_field", "target"):
        return error["msg"]
    return f"'{_short(given)}' is not allowed: {error['msg']}"


def _fields_at(place: Place) -> Iterator[str]:
    model: type[BaseModel] = _MODELS.get(str(place[0]), Campaign) if place else Campaign
    yield from model.model_fields


def _allowed_at(place: Place) -> list[str]:
    """The values of a field that is one of a few words; empty where pydantic's own account must do."""
    if place[-1:] == ("kind",):
        return list(get_args(Kind))
    if not place:
        return []
    model: type[BaseModel] = _MODELS.get(str(place[0]), Campaign)
    field = model.model_fields.get(str(place[-1]))
    words = (
        [word for part in (field.annotation, *get_args(field.annotation)) for word in get_args(part)] if field else []
    )
    return [word for word in dict.fromkeys(words) if isinstance(word, str)]


def _mistakes(campaign: Campaign) -> Iterator[tuple[Place, str]]:
    """What no field shows by itself."""
    for kind, names in (("scenarios", [item.name for item in campaign.scenarios]), ("models", list(campaign.models))):
        for number, name in enumerate(names):
            if name in names[:number]:
                yield (kind, number), f"'{_short(name)}' is there twice; names tell the figures apart"
    given: list[str] = []
    for number, target in enumerate(campaign.targets):
        if target.name is not None:
            if target.name in given:
                yield (
                    ("targets", number, "name"),
                    f"'{_short(target.name)}' is there twice; names tell the figures apart",
                )
            given.append(target.name)
        if target.model is not None and target.model not in campaign.models:
            yield (
                ("targets", number, "model"),
                f"'{_short(target.model)}' is none of `models`: {', '.join(campaign.models)}",
            )
    for number, scenario in enumerate(campaign.scenarios):
        if scenario.kind == "server" and scenario.rate is None and campaign.slo_of(scenario) is None:
            yield (
                ("scenarios", number),
                "`server` without `rate` searches for the rate that meets `slo_ms`; give one of them",
            )
        if scenario.kind == "mixed" and len(campaign.models) < 2:
            yield ("scenarios", number), "`mixed` asks several models at once; `models` names one"
        if scenario.kind == "cold" and not any(target.configured for target in campaign.targets):
            yield (
                ("scenarios", number),
                "`cold` restarts a server of `twinserve up`; no target is a `stack` without `address`",
            )


def _unknown_of(document: dict[str, object], built: list[str]) -> Iterator[tuple[Place, str]]:
    """Models that are not built, of a file that has other mistakes too."""
    models, targets = document.get("models"), document.get("targets")
    unchecked = isinstance(targets, list) and all(isinstance(t, dict) and t.get("parity") is False for t in targets)
    for number, name in enumerate(models if isinstance(models, list) else ()):
        if isinstance(name, str) and name not in built and not unchecked:
            yield ("models", number), _not_built(name, built)


def _not_built(name: str, built: list[str]) -> str:
    known = f"built are: {', '.join(built)}" if built else "none is built; `twinserve models build` builds them"
    return f"models: no built model '{_short(name)}'{_meant(name, built)}; {known}"


def _unknown(campaign: Campaign, built: list[str]) -> Iterator[tuple[Place, str]]:
    for number, name in enumerate(campaign.models):
        # A server whose answers are not compared may have a model of which nothing is known here.
        own = [target for target in campaign.targets if target.model in (None, name)]
        unchecked = all(t.configured is None and not (campaign.parity if t.parity is None else t.parity) for t in own)
        if name not in built and not (own and unchecked):
            yield ("models", number), _not_built(name, built)


def _unknown_variants(campaign: Campaign, built: Collection[str]) -> Iterator[tuple[Place, str]]:
    """Variants that no model of the campaign has, where it is known which they have."""
    known = {name for model in campaign.models for name in (built.get(model, ()) if isinstance(built, Mapping) else ())}
    for number, name in enumerate(campaign.variants or ()):
        if known and name not in known:
            told = f"there are: {', '.join(sorted(known))}; `twinserve models list` says why not, of any other"
            yield (
                ("variants", number),
                f"no model of this campaign has '{_short(name)}'{_meant(name, sorted(known))}; {told}",
            )


def _meant(given: object, allowed: list[str]) -> str:
    near = difflib.get_close_matches(str(given), allowed, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
