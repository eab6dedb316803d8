"""The campaign that `twinserve demo` is."""

from __future__ import annotations

from tests.unit.loadtests.demo_lines import demo_plan

CELLS = [cell for cell in demo_plan("simplenn", "digits").cells if not cell.control]


def test_each_model_is_asked_in_every_way_and_then_as_the_gateway_would_have_it() -> None:
    """Per model: two stacks, two protocols, direct and via the gateway, then the gateway's own choice of each stack."""
    for model in ("simplenn", "digits"):
        own = [cell.target for cell in CELLS if cell.target.model == model]
        matched = {(t.stack, t.transport, t.path) for t in own if "x-stack" not in t.pins}
        assert len(own) == 10
        assert len(matched) == 8
        assert {t.pins["x-stack"] for t in own if "x-stack" in t.pins} == {"torchserve", "tfserving"}


def test_the_gateway_is_the_only_difference_between_a_matched_pair() -> None:
    """It speaks to the server what the client speaks where it is asked directly."""
    matched = [cell.target for cell in CELLS if "x-endpoint" in cell.target.pins]
    direct = {(t.model, t.protocol) for t in (cell.target for cell in CELLS) if t.path == "direct"}
    assert {(t.model, t.upstream_protocol) for t in matched} == direct


def test_every_cell_is_a_closed_loop_of_the_users() -> None:
    """One round of it, a second of warm-up, and as long as the user says."""
    assert {(cell.round, cell.load.arrivals, cell.load.concurrency, cell.load.seconds) for cell in CELLS} == {
        (0, "closed", 4, 3.0)
    }
    assert {cell.load.warm_up_seconds for cell in CELLS} == {1.0}
