"""Variants side by side: one that fails costs nothing of what was measured of it or of the others."""

from __future__ import annotations

from models import record
from models.variants import VARIANTS
from tests.benchmarks.variants.page import Measured, document, page, section
from tests.benchmarks.variants.sides import Rounds, Side, SideError, take_turns

ROUNDS = Rounds(rounds=2, seconds=0.1, report=lambda _: None)


def _sides() -> tuple[dict[str, Side], dict[str, str]]:
    """`eager` and `onnx` after two rounds, of which `onnx` ends in the second one of 32 rows."""
    sides = {name: Side(name, load_s=0.5) for name in ("eager", "onnx")}
    asked: list[tuple[str, int]] = []

    def ask(name: str, rows: int) -> float:
        asked.append((name, rows))
        if name == "onnx" and asked.count((name, 32)) == 2:
            raise SideError("killed")
        return 2.0 if name == "onnx" else 1.0

    return sides, take_turns("model time", {name: side.ms for name, side in sides.items()}, ROUNDS, ask)


def test_one_that_ends_keeps_the_figures_of_whole_rounds() -> None:
    """Those of the batch size that it ended at are dropped; the other side goes on to its last round."""
    sides, failed = _sides()
    assert failed == {"onnx": "from a batch of 32 on: killed"}
    assert sides["onnx"].ms == {1: [2.0, 2.0], 32: []}
    assert sides["eager"].ms == {1: [1.0, 1.0], 32: [1.0, 1.0]}


def test_what_was_not_measured_is_said_beside_what_was() -> None:
    """On the page a dash stands for it, and the reason below; the file for programs has the reason too."""
    sides, failed = _sides()
    records = [record.unavailable("digits", VARIANTS["tensorrt"], "needs an NVIDIA GPU")]
    lost = {f"`{name}`, model time": reason for name, reason in failed.items()}
    found = Measured("digits", sides, records, lost | {"requests/s of every variant": "no port"})
    text = section(found, {}, [])
    assert "| `onnx` | - | 0.50 s | - | 2 | 2.00 (2.00 to 2.00) **slower** | - | - |" in text
    assert "- `onnx`, model time: not measured: from a batch of 32 on: killed" in text
    assert "- requests/s of every variant: not measured: no port" in text
    assert "- `tensorrt`: needs an NVIDIA GPU" in text
    assert document(found, {})["not measured"] == found.failed


def test_whoever_is_slower_has_a_reason_inside_the_server_and_on_the_way() -> None:
    """Through the gateway: whether the time in the server explains it."""
    eager, onnx, int8 = (Side(name) for name in ("eager", "onnx", "int8-static"))
    for side, ms, per_second in ((eager, 1.0, 100.0), (onnx, 2.0, 60.0), (int8, 0.5, 90.0)):
        side.ms[1], side.per_second[1] = [ms] * 2, [per_second] * 2
    sides = {side.name: side for side in (eager, onnx, int8)}
    lines = section(Measured("digits", sides, [], {}), {}, []).splitlines()
    told = [line for line in lines[lines.index("Slower, and the likely reason:") :] if line.startswith("- ")]
    assert len(told) == 3
    assert told[0].startswith("- `onnx`, 1 row, 2.00 times `eager`'s model time: ONNX Runtime's own kernels")
    assert told[1:] == [
        "- `onnx`, 1 row, 0.60 of `eager`'s requests/s: inside the server it takes 2.00 of its time",
        "- `int8-static`, 1 row, 0.90 of `eager`'s requests/s: inside the server it takes 0.50 of its time,"
        " so that the difference lies in the way there",
    ]


def test_a_run_of_one_model_leaves_the_sections_of_the_others() -> None:
    """In the order of the models, whatever was measured when; of those that never were, that is said."""
    once = page({"digits": "## digits\n\nold\n"}, "")
    again = page({"simplenn": "## simplenn\n\nits\n"}, once)
    assert again.index("## simplenn\n\nits\n") < again.index("## digits\n\nold\n") < again.index("## minilm\n")
    assert again.count("Not measured.") == 3
    assert page({"digits": "## digits\n\nnew\n"}, again) == again.replace("\nold\n", "\nnew\n")


def test_there_are_no_more_rounds_than_fit_into_the_time() -> None:
    """Three at least, however long they take, and never more than were asked for."""
    told: list[str] = []
    hasty = Rounds(rounds=8, seconds=0.1, report=told.append, limit_s=0.0)
    orders = list(hasty.interleaved(["a", "b"], "model time, 1 row"))
    assert orders == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert told[-1] == "    model time, 1 row, round 3 of 3"
    assert len(list(Rounds(rounds=2, seconds=0.1, report=told.append, limit_s=0.0).interleaved(["a"], "x"))) == 2
    assert len(list(Rounds(rounds=5, seconds=0.1, report=told.append).interleaved(["a"], "x"))) == 5
