"""What all workers say, as one answer."""

from __future__ import annotations

from typing import Any

from gateway.workers.answers import mirrors, routes


def target(endpoint: str = "a", status: str = "ready", breaker: str = "closed", busy: int = 0) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "weight": 1.0,
        "status": status,
        "reason": "" if status == "ready" else f"it is {status}",
        "versions": [1] if status == "ready" else [],
        "breaker": breaker,
        "slots": {"all": 2, "busy": busy, "queued": 0},
    }


def document(*targets: dict[str, Any], trouble: str = "", **changes: Any) -> dict[str, Any]:
    route = {"policy": "failover", "targets": list(targets), "mirror": None}
    endpoint = {"stack": "noop", "trouble": trouble, "slots": {"all": 2, "busy": 1, "queued": 3}}
    return {
        "routes": {"m": route},
        "unrouted": {},
        "left_out": {},
        "awaited": [],
        "endpoints": {"a": endpoint},
        **changes,
    }


def test_slots_add_up_and_the_worst_state_stands_for_all() -> None:
    """And each worker's own word is beside it."""
    found = routes(
        {
            1: document(target(busy=1)),
            2: document(target(status="unverified", breaker="half_open", busy=2)),
            3: document(target(status="not ready", breaker="open")),
        }
    )["routes"]["m"]["targets"][0]
    assert found["slots"] == {"all": 6, "busy": 3, "queued": 0}
    assert (found["status"], found["reason"], found["breaker"]) == ("unverified", "it is unverified", "open")
    assert found["weight"] == 1.0
    assert {number: own["status"] for number, own in found["workers"].items()} == {
        "1": "ready",
        "2": "unverified",
        "3": "not ready",
    }
    assert found["workers"]["2"]["slots"]["busy"] == 2


def test_the_trouble_of_one_worker_with_an_endpoint_is_told() -> None:
    """Whichever worker it is."""
    found = routes({1: document(target()), 2: document(target(), trouble="does not answer")})["endpoints"]["a"]
    assert found["trouble"] == "does not answer"
    assert found["slots"] == {"all": 4, "busy": 2, "queued": 6}
    assert found["workers"]["1"]["trouble"] == ""


def test_what_only_one_worker_knows_is_told() -> None:
    """A model that one has discovered, one that another waits for, and routes of different lengths."""
    other = {"policy": "pinned", "targets": [target("b")], "mirror": target("a")}
    second = document(
        target(),
        target("b"),
        routes={"n": other, "m": {"policy": "failover", "targets": [target("b")], "mirror": None}},
        unrouted={"u": "has no contract"},
        awaited=["w"],
    )
    found = routes({1: document(target(), target("b")), 2: second})
    assert list(found["routes"]) == ["m", "n"]
    assert [list(item["workers"]) for item in found["routes"]["m"]["targets"]] == [["1"], ["1"]]
    assert list(found["routes"]["n"]["mirror"]["workers"]) == ["2"]
    assert found["unrouted"] == {"u": "has no contract"}
    assert found["awaited"] == ["w"]


def test_mirrors_outcomes_add_up_and_the_worst_of_all_differences_is_first() -> None:
    """As many as one worker keeps; one that is no number comes before all."""

    def report(*differences: float | None) -> dict[str, Any]:
        worst = [{"digest": str(value), "max_scaled": value} for value in differences]
        return {"m": {"outcomes": {"ok": 2, "mismatch": len(worst)}, "worst": worst}}

    found = mirrors({1: report(0.5, 0.1), 2: report(None, 0.3), 3: report(*[0.01] * 8), 4: {}})["m"]
    assert found["outcomes"] == {"ok": 6, "mismatch": 12}
    assert [item["max_scaled"] for item in found["worst"]] == [None, 0.5, 0.3, 0.1, 0.01, 0.01, 0.01, 0.01]
