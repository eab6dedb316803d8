"""campaign.yaml: what it may hold, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.campaign.reading import CampaignError, campaign_of, text_of
from loadtests.campaign.settings import Campaign, ScenarioSettings, TargetSettings
from loadtests.errors import LoadTestError

FIELD_NAMES = sorted({*Campaign.model_fields, *ScenarioSettings.model_fields, *TargetSettings.model_fields})
SHORT = """\
models: [toy]
scenarios:
  - {name: s, kind: server, rate: 5}
targets: [torchserve-rest]
"""


def problems(text: str, built: list[str] | None = None) -> list[tuple[int, str]]:
    """What is wrong with a campaign."""
    with pytest.raises(CampaignError) as caught:
        campaign_of(text, "c.yaml", built_models=built)
    return list(caught.value.problems)


def test_the_example_of_the_guide_is_read() -> None:
    """One line of flow YAML, with `on` and `off` as YAML has them."""
    campaign = campaign_of(
        "{seed: 7, rounds: 1, slo_ms: 50, models: [simplenn], variants: [torchscript], parity: on, "
        "scenarios: [{name: s, kind: server, arrivals: poisson, rate: 200, duration_s: 30}], "
        "targets: [{name: a, protocol: oip-rest, address: '127.0.0.1:9', model: simplenn, parity: off}]}",
        "c.yaml",
        built_models=["simplenn"],
    )
    assert (campaign.seed, campaign.rounds, campaign.slo_ms, campaign.parity) == (7, 1, 50, True)
    assert campaign.targets[0].parity is False
    assert campaign.scenarios[0].duration_s == 30


def test_every_mistake_is_told_at_once_by_its_line_and_with_what_is_allowed() -> None:
    """An unknown field, a value out of range, a word that is not allowed and a wrong short form."""
    found = problems(
        "sede: 7\nrounds: 0\nmodels: [toy]\nscenarios:\n  - name: s\n    kind: sever\ntargets:\n  - torchserv-rest\n"
    )
    assert [line for line, _ in found] == [1, 2, 6, 8]
    told = [text for _, text in found]
    assert told[0].startswith("sede: is not known (did you mean 'seed'?); allowed: name, seed,")
    assert "greater than or equal to 1" in told[1]
    assert "(did you mean 'server'?); allowed: single_stream, multi_stream, server, offline," in told[2]
    assert "(did you mean 'torchserve-rest'?)" in told[3]


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("{name: x, kind: cold, rate: 5}", "cold takes no rate; it takes: duration_s"),
        ("{name: x, kind: curve}", "curve needs rates"),
        ("{name: x, kind: soak}", "soak needs rate"),
        ("{name: x, kind: server}", "give one of them"),
        ("{name: x, kind: mixed, rate: 5}", "`models` names one"),
        ("{name: x, kind: server, rate: 5, arrivals: gamma}", "for kind burst"),
        ("{name: s, kind: offline}", "'s' is there twice"),
        ("{name: x, kind: server, rate: 5, rows: [1, -2]}", "greater than 0"),
        ("{name: x, kind: server, rate: .inf}", "less than or equal to"),
        ("{name: x, kind: server, rate: .nan}", "not allowed"),
    ],
)
def test_a_scenario_that_its_kind_does_not_allow_is_told(scenario: str, told: str) -> None:
    """Fields that a kind does not take or cannot do without, and numbers that are none."""
    text = SHORT.replace("targets", f"  - {scenario}\ntargets")
    assert any(line == 4 and told in text for line, text in problems(text)), problems(text)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{protocol: oip-rest}", "either `stack` or `address`"),
        ("{address: 'x:1'}", "needs `protocol`"),
        ("{stack: torchserve, model: toy}", "goes with `address`"),
        ("{stack: torchserve, upstream: oip-rest}", "goes with `address`"),
        ("{address: 'x:1', protocol: predict, upstream: oip-rest}", "goes with `path: gateway`"),
        ("{address: 'x:1', protocol: predict, transport: grpc}", "`protocol` says it there"),
        ("{protocol: oip-rest, address: 'x:1', model: other}", "none of `models`: toy"),
        ("{protocol: oip, address: 'x:1'}", "allowed: predict, oip-rest"),
        ("{stack: torchserve, tuning_trials: 20}", "goes with `config: tuned`"),
    ],
)
def test_a_target_that_means_nothing_is_told(target: str, told: str) -> None:
    """A target is a configured stack or an address with a protocol."""
    found = problems(SHORT.replace("[torchserve-rest]", f"[{target}]"))
    assert [line for line, _ in found] == [4]
    assert told in found[0][1]


def test_a_repeated_field_and_text_that_is_no_yaml_are_told() -> None:
    """YAML itself would take the last of two, and stop at the first fault."""
    assert (5, "models is given twice") in problems(SHORT + "models: [other]\n")
    assert problems("models: [toy\nrounds: 3\n")[0][1].startswith("not YAML: ")
    assert problems("- 1\n") == [(1, "expected fields such as `models:`, `scenarios:` and `targets:`")]
    assert problems("") == [(1, "expected fields such as `models:`, `scenarios:` and `targets:`")]


def test_a_model_that_is_not_built_is_told_with_those_that_are() -> None:
    """Before anything is started."""
    assert problems(SHORT, ["toys", "digits"]) == [
        (1, "models: no built model 'toy' (did you mean 'toys'?); built are: toys, digits")
    ]


def test_an_unknown_model_is_told_beside_other_mistakes() -> None:
    """All at once, as everything."""
    text = SHORT.replace("kind: server", "kind: sever")
    assert [text.partition(":")[0] for _, text in problems(text, ["toys"])] == ["models", "scenarios[0].kind"]


def test_a_server_whose_answers_are_not_compared_may_have_a_model_of_its_own() -> None:
    """Nothing of it need be known here."""
    text = SHORT.replace("[torchserve-rest]", "[{protocol: predict, address: 'x:1', parity: off}]")
    assert campaign_of(text, "c.yaml", built_models=[]).models == ("toy",)


def test_all_is_short_for_every_configured_target() -> None:
    """Both stacks, both protocols, direct and through the gateway."""
    for text in ("all", "[all]"):
        assert len(campaign_of(SHORT.replace("[torchserve-rest]", text), "c").targets) == 8


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["all", "server"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELD_NAMES) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(FIELD_NAMES), VALUES))
def test_whatever_the_file_holds_is_a_campaign_or_its_mistakes_are_told(document: dict[str, object]) -> None:
    """Never another error, and every line is one of the file's."""
    text = yaml.safe_dump(document, allow_unicode=True)
    told: list[tuple[int, str]] = []
    try:
        campaign_of(text, "c.yaml", built_models=["toy"])
    except CampaignError as exc:
        told = [*exc.problems]
    assert all(1 <= line <= len(text.splitlines()) and words for line, words in told)


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "? [1]\n: 2", "a: !!python/object:os.system {}", "\x00"]
)
def test_yaml_that_hides_something_is_told(text: str) -> None:
    """Aliases that hold themselves or multiply, keys that are lists, tags that are programs."""
    assert problems(text)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "more than 20,000 values" in problems(bomb)[0][1]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Missing, or not text."""
    with pytest.raises(LoadTestError, match="cannot read the campaign"):
        text_of(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadTestError, match="cannot read the campaign"):
        text_of(tmp_path / "binary.yaml")


def test_a_variant_that_no_model_has_is_told_by_its_line() -> None:
    """With those that there are."""
    text = "models: [toy]\nvariants: [torchscript, onxx]\nscenarios: [{name: s, kind: offline}]\ntargets: [all]\n"
    with pytest.raises(LoadTestError) as told:
        campaign_of(text, "c.yaml", built_models={"toy": {"torchscript": "torchserve", "onnx": "torchserve"}})
    assert "line 2: no model of this campaign has 'onxx' (did you mean 'onnx'?); there are: onnx, torchscript" in str(
        told.value
    )
