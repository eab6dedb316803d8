"""Writes docs/variants.md from the registry and from what is built: `python -m models.page`.

It holds no times: they are another machine's tomorrow. Distances are rounded to one digit, which another CPU of the
same kind reaches too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from models import record
from models.variants import VARIANTS, Variant
from models.zoo import MODELS

PAGE = Path("docs/variants.md")
STACKS = {"torchserve": "TorchServe", "tfserving": "TensorFlow server"}
BEGIN = """# Variants

One trained model, in every form that a stack can serve. This page is generated (`make variants-page`) from
`models/variants.py` and from what `twinserve models build` made on one machine.

    twinserve models build                          # all models with all variants; what is made is left as it is
    twinserve models build digits --variants onnx,xla
    twinserve models verify digits                  # runs every available variant against the original again
    twinserve models list --json                    # what there is, or why it is not available

A variant is made in a process of its own, from the weights of the model's build (`weights.npz`), and is proven there
before it counts: its outputs for the whole test set against those of the eager PyTorch network. One that fails, or
crashes, is not available and tells why; the others go on. `models build` makes again what its digest says is out of
date (weights, sources, package versions; of compiled ones the CPU's instructions), and asks again for what was known
not to be had. What was tried and failed is tried again with `--retry`, which trains nothing.

`artifacts/models/<model>/variants/<variant>/` holds `contract.json`, `variant.json` (what `list --json` shows, and the
sha256 of every file) and what is served. The default variants, `torchscript` and `savedmodel`, are the model's own
build.

## What is held to what

Exact variants: `|a - b| <= 1e-5 + 1e-5 * |b|` for every output of the test set, and the same class for every row.
The others, quantized or pruned, have a contract of their own: the model's own metric on the test set may fall by what
is stated here, and of a classification at least the stated share of rows keeps the original's class. Both were set
before anything was measured ([decision 17](decisions/017-what-a-variant-may-cost.md)); what misses them is not
available. How far the outputs really are apart is measured and shown below, whatever the contract allows.

"""
NOTES = """
- `xla` compiles for every shape it meets, so that its signature pads: rows to 1, 2, 4, 8, 16 or 32, and more of
  them in parts of 32; where sequences are open (`minilm-ids`), rows to 1, 8 or 32 and lengths to 16, 64 or 256. A
  longer sequence is refused as invalid. The SavedModel brings a warm-up request for each of these shapes, so that
  TensorFlow Serving has compiled them all before it is ready, and compiles nothing afterwards
  (`tests/variants/test_tensorflow.py` counts).
- `savedmodel-nograppler`: the session's option alone is not enough, because the functions of a SavedModel are
  called with a configuration of their own, empty in an ordinary one. Here it is written into each call too, and the
  server runs with `--platform_config_file=serving/tfserving/nograppler.config`. The build traces what is executed
  and fails where a fused operation, which only Grappler makes, is among it. oneDNN's own pass, which joins a
  convolution with its bias or padding, is no part of Grappler and stays.
- `tflite-*` are made from the SavedModel. Inputs and outputs keep the contract's datatypes, and their names are
  those of the tensors in the file, which is what TensorFlow Serving makes a signature of. The ranges of
  `tflite-int8` come from up to 200 training rows. What the converter would silently leave in FP32 is not called
  quantized: it is not available. The converter folds `simplenn`'s scaling of its inputs into the first layer, so that
  ten raw features share one scale of 255 steps (cholesterol reaches 300, and a logarithm goes from 3 to 6):
  `int8-static` leaves the scaling in FP32.
- `int8-dynamic` takes one scale for the activations of a whole run, so that an outlier in one row changes the answers
  of the others. The gateway therefore batches no request for it with another's (`batching: false` on its
  target); the rows of one request still share a scale.
- `tf-trt`: TensorFlow's packages are built without TensorRT since 2.18.
"""
RESULTS = """
## What there is

`max` is the largest |a-b|/(1+|b|) on the test set, a the variant's output, b the eager original's.
"""


def text(root: Path) -> str:
    """The page, with the results of what is built below `root`."""
    parts = [BEGIN, registry(), NOTES, RESULTS]
    for name in MODELS:
        parts.append(f"\n### {name}\n\n")
        parts.append(_table(("Variant", "Served by", "Size", "max", "Same class", "Metric"), _results(root / name)))
    return "".join(parts)


def registry() -> str:
    """The part of the page that tells what variants there are: the same on every machine."""
    parts = []
    for stack, title in STACKS.items():
        rows = [
            (f"`{variant.name}`", variant.datatype, variant.device, _held_to(variant), variant.summary)
            for variant in VARIANTS.values()
            if variant.stack == stack
        ]
        header = (title, "Datatype", "Device", "Held to", "What it is")
        parts.append(_table(header, rows))
    return "\n".join(parts)


def _held_to(variant: Variant) -> str:
    if variant.exact:
        return "exact"
    return f"metric -{variant.drop:g}, same class on {variant.agreement:.0%}"


def _results(base: Path) -> list[tuple[str, ...]]:
    rows = []
    for known in record.load_all(base):
        cells = _measured(known) if known.available else (_reason(known), "", "", "")
        rows.append((f"`{known.variant}`", known.served_by, *cells))
    return rows


def _reason(known: record.Record) -> str:
    return f"not available: {known.reason}".replace("|", "\\|")


def _measured(known: record.Record) -> tuple[str, ...]:
    metric = ""
    if known.quality is not None:
        metric = f"{known.quality['metric']} {known.quality['measured']:.4f} of {known.quality['original']:.4f}"
    return (
        f"{(known.bytes or 0) / 1e3:,.0f} kB",
        "" if known.parity_max_scaled is None else f"{known.parity_max_scaled:.0e}",
        "" if known.argmax_agreement is None else f"{known.argmax_agreement:.1%}",
        metric,
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.page", description="Write docs/variants.md.")
    parser.add_argument("--root", type=Path, default=Path("artifacts/models"), help="(default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    options.page.write_text(text(options.root), "utf-8")
    print(f"{options.page} written from {options.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
