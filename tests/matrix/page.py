"""The page of a run: a summary, a table for every section, and what each refusal means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase

import grpc

from gateway.core.errors import Cause
from tests.matrix.cases import NO_ROWS, ODD, RANKS, REAL, SEVERAL, VALUES, Case
from tests.matrix.doors import WAYS, Way
from tests.matrix.rules import Refusal
from tests.matrix.run import Cell, Results
from tests.matrix.stack import Backend

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocol-matrix.md"
Letters = Mapping[str, str]
_PROTOCOLS = {
    **{"predict": "`/predict`", "oip-rest": "OIP REST", "oip-grpc": "OIP gRPC"},
    **{"tfserving-rest": "TF Serving REST", "tfserving-grpc": "TF Serving gRPC"},
    **{"torchserve-rest": "TorchServe REST", "torchserve-grpc": "TorchServe gRPC"},
}
EXACT, NEAR, NONE, WRONG = "=", "≈", "·", "WRONG"

_SECTIONS: dict[str, str] = {
    VALUES: "Shape [3, 2], with the largest, the smallest and the oddest values of each datatype: subnormals, -0, text "
    "with quotes, accents and NUL.",
    NO_ROWS: "",
    RANKS["FP32"]: "Every rank from 0 to 5, and shapes without elements.",
    RANKS["BYTES"]: "TorchServe's clients send a single element as the body itself, raw. Over its gRPC nothing says "
    "whether a body is JSON, so that a model whose input may be one element is always sent that element.",
    ODD: "",
    SEVERAL: "Rows repeat a scalar in every instance, which is then no scalar. TF Serving's REST has no way to ask for "
    "some of the outputs: all are answered.",
    REAL: "Each server runs its own export; the answers are those of training, within the contract's tolerance. "
    "Of no rows, what the server itself answers is what the gateway answers.",
}


HEAD = (
    "# Protocol matrix",
    "Which clients reach which model servers with which tensors: every door of the gateway, to every backend, over "
    "both transports of each, with every datatype, rank 0 to 5, empty batches, and several inputs and outputs. "
    "[MLServer](protocol-matrix-mlserver.md), a server of another project, has a page of its own.",
)
SERVERS = (
    "TorchServe is sent the frame of our handler; under a `payload` stand [handlers that are not ours]"
    "(torchserve-handlers.md), each with an endpoint for every model. With `json` the template is `{data: $inputs}`, "
    "with BYTES in base64 where the input is called `x_bytes`. With `raw` a body is the input's values and nothing "
    "else, one request a row: for a model of several inputs, or of BYTES that may be more than one element a row, the "
    "gateway refuses such a target at its start. The scripted server is one of the tests', for two forms of the Open "
    "Inference Protocol that twinserve itself does not speak as a server: REST without the binary extension, and typed "
    "answers to raw requests. It has no trained models. REST with the binary extension, as a backend, is proven "
    "against twinserve itself and fakes alone: MLServer, the one other server here, does not offer it over REST."
)


def render(results: Results, head: Sequence[str] = HEAD, servers: str = SERVERS) -> str:
    """The page of a run: the same for every run that gives the same answers."""
    letters = _letters(results)
    servers_own = any(refused.cause is Cause.UPSTREAM_REJECTED for refused in _met(results))
    but_for = ", but for an empty batch of a convolution, which TensorFlow's own kernels refuse" if servers_own else ""
    parts = [
        *head,
        f"`make matrix` writes this page from {len(results.cells)} requests to running servers; `make test-clients` "
        "sends the same, and fails where an answer is not what stands here. Identity models must answer what they were "
        f"sent, **to the bit**, trained ones within their contract's tolerance. {len(results.direct)} of the questions "
        "are put to the servers directly as well, by clients of their own protocols, and must give the same answers.",
        "## Servers that answered",
        _table(["backend", "endpoint", "server"], [_served(results, backend) for backend in results.backends]),
        servers,
        "## Summary",
        f"Answers equal to the bit (`{EXACT}`), within the contract's tolerance (`{NEAR}`), and refusals by the "
        f"protocol's own status. Whatever is refused, is so because a protocol on its way has no form for it{but_for}.",
        _table(
            ["door", *(backend.title for backend in results.backends)],
            [_summed(results, way, letters) for way in WAYS],
        ),
        "## In detail",
        f"`{EXACT}` equal to the bit. `{NEAR}` within the contract's tolerance. `{NONE}` the door has no form for the "
        "question, or the backend cannot have the model. Else refused: the status (over gRPC by its number: 3 is "
        "INVALID_ARGUMENT, 12 UNIMPLEMENTED; `error` in a stream, whose replies have a text and no status), and a "
        "letter that [the last table](#what-the-refusals-mean) explains. Backends that answer alike share a table.",
    ]
    for section, words in _SECTIONS.items():
        parts += [f"### {section}", *filter(None, [words]), *_section(results, section, letters)]
    parts += [
        "## What the refusals mean",
        "Causes are those of [errors.md](errors.md); every text names the tensor, and the way that carries it.",
        _table(["", "cause", "status", "meaning, and what to do"], _refusals(results, letters)),
    ]
    return "\n\n".join(parts) + "\n"


def _served(results: Results, backend: Backend) -> list[str]:
    server = results.servers[backend.name]
    # The page is the same for every version of ours.
    told = "twinserve, in front of TorchServe" if server.startswith("twinserve ") else server
    return [backend.title, f"`{backend.endpoint('MODEL')}`", told]


def _summed(results: Results, way: Way, letters: Letters) -> list[str]:
    sums = []
    for backend in results.backends:
        cells = [_mark(results, way, backend, case, letters) for case in results.cases]
        refused = sum(mark not in (EXACT, NEAR, NONE) for mark in cells)
        words = [f"{cells.count(mark)} {mark}" for mark in (EXACT, NEAR) if mark in cells]
        sums.append(", ".join([*words, *([f"{refused} refused"] if refused else [])]))
    return [way.title, *sums]


def _section(results: Results, section: str, letters: Letters) -> list[str]:
    """One table for all backends that answer alike."""
    cases = [case for case in results.cases if case.section == section]
    served = [backend for backend in results.backends if _asked(results, backend, cases)]
    rows = {
        backend.name: [[way.title, *(_mark(results, way, backend, case, letters) for case in cases)] for way in WAYS]
        for backend in served
    }
    alike = sorted(served, key=lambda backend: [rows[each.name] for each in served].index(rows[backend.name]))
    parts = []
    for _, group in groupby(alike, key=lambda backend: rows[backend.name]):
        backends = list(group)
        names = [case.name.replace("|", "\\|") for case in cases]
        filled = [row for row in rows[backends[0].name] if set(row[1:]) != {NONE}]
        parts.append("**" + "; ".join(backend.title for backend in backends) + "**")
        parts.append(_table(["door", *names], filled))
    return parts


def _asked(results: Results, backend: Backend, cases: Sequence[Case]) -> bool:
    return any((way.door.name, backend.name, case.key) in results.cells for way in WAYS for case in cases)


def _mark(results: Results, way: Way, backend: Backend, case: Case, letters: Letters) -> str:
    cell = results.cells.get((way.door.name, backend.name, case.key))
    if cell is None:
        return NONE
    if cell.fault is not None:
        return WRONG
    if cell.refused is not None:
        return f"{_status(cell, number=True)} {letters[cell.refused.means]}"
    return EXACT if case.golden is None else NEAR


def _status(cell: Cell, *, number: bool = False) -> str:
    if not isinstance(cell.status, grpc.StatusCode):
        return str(cell.status)
    return str(cell.status.value[0]) if number else cell.status.name


def _letters(results: Results) -> Letters:
    """A letter for each refusal, in the order in which the page comes to them."""
    means = dict.fromkeys(refused.means for refused in _met(results))
    return dict(zip(means, ascii_lowercase, strict=False))


def _met(results: Results) -> list[Refusal]:
    return [cell.refused for _, cell in _in_order(results) if cell.refused is not None]


def _in_order(results: Results) -> Iterator[tuple[Way, Cell]]:
    for case in results.cases:
        for backend in results.backends:
            for way in WAYS:
                cell = results.cells.get((way.door.name, backend.name, case.key))
                if cell is not None:
                    yield way, cell


def _refusals(results: Results, letters: Letters) -> list[list[str]]:
    """Each refusal once, with every status that tells it and the protocols that use it."""
    met: dict[str, tuple[str, dict[str, dict[str, None]]]] = {}
    for way, cell in _in_order(results):
        if cell.refused is not None:
            _, statuses = met.setdefault(cell.refused.means, (cell.refused.cause.value, {}))
            statuses.setdefault(_status(cell), {})[_PROTOCOLS[way.door.protocol]] = None
    return [
        [
            letters[means],
            f"`{cause}`",
            "; ".join(f"{status} ({', '.join(at)})" for status, at in statuses.items()),
            means.replace("|", "\\|"),
        ]
        for means, (cause, statuses) in met.items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
