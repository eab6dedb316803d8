"""docs/variants.md: generated, and of today's registry."""

from __future__ import annotations

from pathlib import Path

from models import page
from models.variants import VARIANTS
from models.zoo import MODELS

WRITTEN = Path(__file__).resolve().parents[3] / page.PAGE


def test_the_page_is_of_todays_registry() -> None:
    """`make variants-page` writes it anew after a change of `models/variants.py` or `models/page.py`."""
    text = WRITTEN.read_text("utf-8")
    assert page.BEGIN + page.registry() + page.NOTES + page.RESULTS in text
    for name in MODELS:
        rows = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert [row for row in VARIANTS if f"\n| `{row}` |" not in rows] == []


def test_what_is_not_offered_says_why_before_it_is_built(tmp_path: Path) -> None:
    """Building it would not help."""
    own = page.text(tmp_path).partition("\n### minilm\n")[2].partition("\n### ")[0]
    reason = MODELS["minilm"].not_offered["tfserving"]
    stacks = [variant.stack for variant in VARIANTS.values()]
    assert own.count(f"not available: {reason}") == stacks.count("tfserving")
    assert own.count("not available: not built") == stacks.count("torchserve")


def test_what_is_not_available_says_why(tmp_path: Path) -> None:
    """Also where nothing is built at all."""
    text = page.text(tmp_path)
    assert text.count("not available: not built; `twinserve models build digits` makes it") == len(VARIANTS)
