"""Variants side by side: one that fails costs nothing of what was measured of it or of the others."""

from __future__ import annotations

from models import record
from models.variants import VARIANTS
from tests.benchmarks.variants.page import Measured, document, markdown
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

    return sides, take_turns({name: side.ms for name, side in sides.items()}, ROUNDS, ask)


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
    found = [Measured("digits", sides, records, lost | {"requests/s of every variant": "no port"})]
    page = markdown(found, {}, [])
    assert "| `onnx` | - | 0.50 s | - | 2 | 2.00 (2.00 to 2.00) **slower** | - | - |" in page
    assert "- `onnx`, model time: not measured: from a batch of 32 on: killed" in page
    assert "- requests/s of every variant: not measured: no port" in page
    assert "- `tensorrt`: needs an NVIDIA GPU" in page
    assert document(found, {})["not measured"] == {"digits": found[0].failed}
