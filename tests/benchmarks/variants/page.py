"""The page and its section of a model: each variant ÷ its own eager with 95 % intervals, and why where it is slower."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.analysis.statistics import Interval, bootstrap_mean
from models.record import Record
from models.variants import VARIANTS
from models.zoo import MODELS
from tests.benchmarks.variants.alone import KERAS_EAGER
from tests.benchmarks.variants.sides import BATCHES, Side

# What a variant's model time and its requests a second are held against, by stack.
INSIDE = {"torchserve": ("eager",), "tfserving": (KERAS_EAGER, "savedmodel")}
STACKS = {"torchserve": "TorchServe", "tfserving": "TensorFlow server"}
GATEWAY = {"torchserve": "eager", "tfserving": "savedmodel"}
# Of 32 rows no more than so many times the time of one: most of a call is fixed cost.
FIXED = 6.0
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
LIKELY = {
    "compile": "each call passes torch.compile's guards and its Python wrapper first",
    "aotinductor": "the generated loops stand in for oneDNN's tuned kernels",
    "onnx": "ONNX Runtime's own kernels, on the one thread that a worker has, stand in for oneDNN's",
    "int8-dynamic": "each call quantizes its activations anew, which layers of this size do not earn back",
    "int8-static": "values are quantized and put back between layers, which layers of this size do not earn back",
    "pruned": "what is left of the layers is of sizes that kernels are not tuned for",
    "savedmodel-nograppler": "nothing is folded or fused before it runs",
    "xla": "rows are padded to the next of its batch sizes, and XLA's own loops stand in for oneDNN's kernels",
    "tflite-fp32": "its interpreter has one thread, where TensorFlow has all cores",
    "tflite-fp16": "its interpreter has one thread, where TensorFlow has all cores; it computes in FP32 all the same",
    "tflite-dynamic": "its interpreter has one thread, and each call quantizes its activations anew",
    "tflite-int8": "its interpreter has one thread, and inputs and outputs are quantized around it",
}
HEAD = """# Variants, measured

Written by `make bench-variants`: every variant of every model ÷ its own eager, in one run, the variants in turn within
each round. [Variants](variants.md) says what each is and how far its answers are from the original's.

    make variants                        # all models in all variants
    make bench-variants                  # all of them, each model's section of this page as soon as it was measured
    make bench-variants MODELS=digits    # one model; the sections of the others stay

Where the program on the TensorFlow server is the stand-in, ratios hold within it, and say nothing of TensorFlow
Serving.

- **Model time** is the median of a call's time inside the server, by the very code that serves it, in a process for
  each variant: our handler for TorchServe (one torch thread, as a worker has), the SavedModel server's executor for
  TensorFlow. Neither sockets nor queues are in it. It is held against the network called eagerly: TorchServe's variant
  `eager`, and the Keras network called as it is, which nobody would serve; TensorFlow's are held against `savedmodel`
  too. Below 1 is faster.
- **Requests/s** are answers over the gateway's gRPC, from 4 callers at once with one row each, and from 2 with 32 rows
  each, of running servers. They are held against `eager` on TorchServe, and against `savedmodel` on the TensorFlow
  server, which has no eager form. Above 1 is faster.
- A ratio is the geometric mean over the rounds, in brackets its 95 % interval (bootstrap, BCa). *Slower* and *faster*
  stand where the whole interval is on that side.
- **Load** is from the first look at the file to a loaded model, imports of the framework aside, warm-up included;
  **peak memory** is the most that the variant's own process has had, framework included.
"""


@dataclass(frozen=True)
class Measured:
    """One model: its sides by name, `keras-eager` among them, and the records of all its variants.

    A side of which something could not be measured has no figures there; `failed` has what it was, and the reason.
    """

    model: str
    sides: Mapping[str, Side]
    records: Sequence[Record]
    failed: Mapping[str, str]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The geometric mean of ours ÷ theirs over the rounds, with its 95 % interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    mean = bootstrap_mean(logs)
    return Interval(math.exp(mean.value), math.exp(mean.low), math.exp(mean.high))


def shown(interval: Interval, *, smaller_is_faster: bool) -> str:
    """A ratio with its interval, and a word where it is settled."""
    text = f"{_figure(interval.value)} ({_figure(interval.low)} to {_figure(interval.high)})"
    if interval.low > 1 or interval.high < 1:
        text += " faster" if (interval.high < 1) is smaller_is_faster else " **slower**"
    return text


def why_slower(side: Side, rows: int, flags: Sequence[str]) -> str:
    """What a variant's model time is likely spent on, where it is slower than eager."""
    said = LIKELY.get(side.name, "")
    if side.name == "bf16" and not BF16_INSTRUCTIONS & set(flags):
        said = "this CPU has no BF16 instructions (avx512_bf16, amx_bf16): they are emulated in FP32"
    elif side.name == "bf16":
        said = "inputs and outputs are converted between FP32 and BF16 around it"
    one, many = (side.ms[BATCHES[0]], side.ms[BATCHES[-1]])
    growth = _middle(many) / _middle(one) if one and many else math.inf
    if rows == BATCHES[0] and growth < FIXED:
        fixed = f"most of a call is fixed cost here: {BATCHES[-1]} rows take {growth:.1f} times the time of one"
        return f"{said}; {fixed}" if said else fixed
    return said or "not known"


def section(measured: Measured, about: Mapping[str, str], flags: Sequence[str]) -> str:
    """A model's part of the page."""
    parts = [f"## {measured.model}", "", *(f"- {name}: {value}" for name, value in about.items())]
    for stack in STACKS:
        parts += _inside(measured, stack)
    parts += ["", *_gateway(measured)]
    slower = _slower(measured, flags) + _slower_outside(measured)
    parts += ["", "Slower, and the likely reason:", "", *slower] if slower else []
    missing = [f"- `{item.variant}`: {item.reason}" for item in measured.records if not item.available]
    missing += [f"- {what}: not measured: {reason}" for what, reason in measured.failed.items()]
    parts += ["", "Not available:", "", *missing] if missing else []
    return "\n".join(parts) + "\n"


def page(sections: Mapping[str, str], before: str) -> str:
    """The whole page, by model: the `sections` there are, and of other models those of the page `before`."""
    kept = {part.partition("\n")[0]: f"## {part}" for part in re.split(r"(?m)^## ", before)[1:]}
    found = (sections.get(name) or kept.get(name) or f"## {name}\n\nNot measured.\n" for name in MODELS)
    return "\n".join([HEAD, *(f"{part.rstrip()}\n" for part in found)])


def document(measured: Measured, about: Mapping[str, str]) -> dict[str, Any]:
    """The same figures for a program: every round of every side."""
    return {
        "model": measured.model,
        "about": dict(about),
        "not measured": dict(measured.failed),
        "variants": [item.listed() for item in measured.records],
        "sides": {
            name: {
                "ms": side.ms,
                "per_second": side.per_second,
                "load_s": side.load_s,
                "peak_rss_mb": side.peak_rss_mb,
            }
            for name, side in measured.sides.items()
        },
    }


def _inside(measured: Measured, stack: str) -> list[str]:
    sides = {name: side for name, side in measured.sides.items() if _stack(name) == stack}
    if not sides:
        return []
    sizes = {item.variant: item.bytes for item in measured.records}
    against = [name for name in INSIDE[stack] if name in sides]
    columns = [STACKS[stack], "file", "load", "peak memory"]
    for rows in BATCHES:
        columns += [f"{_rows(rows)}, ms", *(f"÷ `{name}`" for name in against)]
    lines = ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, side in sides.items():
        size = sizes.get(name)
        cells = [f"`{name}`", f"{size / 1e3:,.0f} kB" if size else "-", f"{side.load_s:.2f} s"]
        cells.append(f"{side.peak_rss_mb:.0f} MB" if side.peak_rss_mb else "-")
        for rows in BATCHES:
            cells.append(f"{_middle(side.ms[rows]):.3g}" if side.ms[rows] else "-")
            for base in (sides[other] for other in against):
                told = _against(side.ms[rows], base.ms[rows], same=base is side, smaller_is_faster=True)
                cells.append("-" if name == KERAS_EAGER and base is not side else told)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stack(name: str) -> str:
    return "tfserving" if name == KERAS_EAGER else VARIANTS[name].stack


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _gateway(measured: Measured) -> list[str]:
    batches = [f"{_rows(rows)}, requests/s | ratio" for rows in BATCHES]
    lines = [f"| variant through the gateway | {' | '.join(batches)} |", "|---|---|---|---|---|"]
    for name, side in measured.sides.items():
        if not any(side.per_second.values()):
            continue
        base = measured.sides.get(GATEWAY[VARIANTS[name].stack])
        cells = [f"`{name}`"]
        for rows in BATCHES:
            cells.append(f"{_middle(side.per_second[rows]):.4g}" if side.per_second[rows] else "-")
            theirs = base and base.per_second[rows]
            cells.append(_against(side.per_second[rows], theirs, same=base is side, smaller_is_faster=False))
        lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def _against(ours: Sequence[float], theirs: Sequence[float] | None, *, same: bool, smaller_is_faster: bool) -> str:
    if not ours or not theirs:
        return "-"
    return "1" if same else shown(ratio(ours, theirs), smaller_is_faster=smaller_is_faster)


def _slower(measured: Measured, flags: Sequence[str]) -> list[str]:
    lines = []
    for name, side in measured.sides.items():
        for other in INSIDE[_stack(name)] if name != KERAS_EAGER else ():
            base = measured.sides.get(other)
            for rows in BATCHES if base is not None and base is not side else ():
                if not side.ms[rows] or not base.ms[rows]:
                    continue
                found = ratio(side.ms[rows], base.ms[rows])
                if found.low > 1:
                    reason = why_slower(side, rows, flags)
                    lines.append(f"- `{name}`, {_rows(rows)}, {found.value:.2f} times `{other}`'s model time: {reason}")
    return lines


def _slower_outside(measured: Measured) -> list[str]:
    lines = []
    for name, side in measured.sides.items():
        other = GATEWAY[_stack(name)]
        base = measured.sides.get(other)
        for rows in BATCHES if base is not None and base is not side else ():
            if not side.per_second[rows] or not base.per_second[rows]:
                continue
            found = ratio(side.per_second[rows], base.per_second[rows])
            if found.high < 1:
                said = "inside the server its time was not measured"
                if side.ms[rows] and base.ms[rows]:
                    inside = ratio(side.ms[rows], base.ms[rows])
                    said = f"inside the server it takes {inside.value:.2f} of its time"
                    said += "" if inside.low > 1 else ", so that the difference lies in the way there"
                lines.append(f"- `{name}`, {_rows(rows)}, {found.value:.2f} of `{other}`'s requests/s: {said}")
    return lines


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
