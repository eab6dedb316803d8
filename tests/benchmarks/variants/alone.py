"""One variant alone in a process, run by the code that serves it: `python -m ... BASE VARIANT < questions`.

A TorchServe variant is run by our handler as its worker runs it, a TensorFlow one by the SavedModel server's own
executor, neither with sockets or queues around it: what is timed is the time of the model inside its server.
`keras-eager` is the Keras network, called as it is: what TensorFlow's variants are held against.

A question is {"rows": N, "seconds": S} on a line, its answer {"ms", "calls"}: the median of the calls that fit into the
time, of which there is one at least. The first line has {"load_s", "first_ms"}; at the end of the questions comes
{"peak_rss_mb"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from loadtests.golden import load_golden
from models import record
from models.build import import_tensorflow, quiet_frameworks
from models.variants import DEFAULT, VARIANTS

KERAS_EAGER = "keras-eager"
MARK = '{"alone": '

Arrays = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], object]


def rows_of(arrays: Arrays, count: int) -> Arrays:
    """The first rows; where there are fewer, all of them again."""
    return {name: np.concatenate([array] * -(-count // len(array)))[:count] for name, array in arrays.items()}


@contextmanager
def loaded(base: Path, name: str) -> Iterator[Run]:
    """What answers a batch; its frameworks are imported when the block begins to load, by `prepare`."""
    if name == KERAS_EAGER:
        yield _keras(base)
    elif VARIANTS[name].stack == "torchserve":
        with _torchserve(base, name) as run:
            yield run
    else:
        yield _tensorflow(base, name)


def prepare(name: str) -> None:
    """Imports what every variant of a stack needs, so that it counts for none."""
    quiet_frameworks()
    if name != KERAS_EAGER and VARIANTS[name].stack == "torchserve":
        import serving.torchserve.handler  # noqa: PLC0415 - torch
    else:
        import_tensorflow()
        import serving.tfserving.savedmodel_server.loading  # noqa: F401, PLC0415 - TensorFlow


@contextmanager
def _torchserve(base: Path, name: str) -> Iterator[Run]:
    from models.export.archive import unpacked  # noqa: PLC0415 - torch
    from serving.torchserve.handler import Request, Service, Tensor  # noqa: PLC0415 - torch

    served = VARIANTS[name].served_name(base.name)
    folder = base / DEFAULT["torchserve"] if VARIANTS[name].default else record.folder_of(base, name)
    with unpacked(folder / f"{served}.mar") as context:
        service = Service(context)
        service.warm_up()
        types = {spec.name: spec.datatype for spec in service.contract.inputs.values()}

        def run(arrays: Arrays) -> object:
            return service.infer(Request(tuple(Tensor(key, types[key], array) for key, array in arrays.items())))

        yield run


def _tensorflow(base: Path, name: str) -> Run:
    from serving.tensorflow import FILES, WITHOUT_GRAPPLER  # noqa: PLC0415 - only here
    from serving.tfserving.savedmodel_server.load_flags import LoadFlags  # noqa: PLC0415 - TensorFlow
    from serving.tfserving.savedmodel_server.loading import Loader, options_of  # noqa: PLC0415 - TensorFlow

    folder = base / DEFAULT["tfserving"] if VARIANTS[name].default else record.folder_of(base, name)
    newest = max(path for path in folder.iterdir() if path.name.isdigit())
    platform = str(FILES / "nograppler.config") if name == WITHOUT_GRAPPLER else ""
    servable = Loader(options_of(LoadFlags(prefer_tflite_model=True, platform_config_file=platform)))(newest)
    signature = servable.signature("")
    if signature is None:
        raise SystemExit(f"{newest} has no serving_default")
    wanted = list(signature.outputs)
    return lambda arrays: signature.run(arrays, wanted)


def _keras(base: Path) -> Run:
    from models.job import job_of  # noqa: PLC0415 - only here
    from models.train import predict_keras  # noqa: PLC0415 - only here
    from models.zoo import MODELS  # noqa: PLC0415 - only here

    definition = MODELS[base.name]
    data = definition.module("data").load(0)
    net = job_of(definition, VARIANTS["savedmodel"], base, base, data).keras_net()
    return lambda arrays: predict_keras(net, definition.network_rows(arrays))


def main(base: Path, name: str) -> None:
    """Loads, tells how long that took, and answers."""
    golden = load_golden(base.parents[1], base.name).inputs
    prepare(name)
    begin = time.perf_counter()
    with loaded(base, name) as run:
        load_s = time.perf_counter() - begin
        run(rows_of(golden, 1))
        tell(load_s=load_s, first_ms=(time.perf_counter() - begin - load_s) * 1e3)
        took: dict[int, float] = {}
        for line in sys.stdin:
            question = json.loads(line)
            rows, seconds = question["rows"], question["seconds"]
            # A call that takes longer than all the time there is needs no other before it, once it was made.
            told = measured(run, rows_of(golden, rows), seconds, ahead=took.get(rows, 0.0) < seconds)
            took[rows] = told["ms"] / 1e3
            tell(**told)
    tell(peak_rss_mb=peak_rss_mb())


def measured(run: Run, arrays: Arrays, seconds: float, *, ahead: bool) -> dict[str, float]:
    """The median of the calls that begin within `seconds`; with `ahead`, after one that does not count."""
    if ahead:
        run(arrays)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run(arrays)
        times.append(time.perf_counter() - begin)
    return {"ms": median(times) * 1e3, "calls": len(times)}


def peak_rss_mb() -> float:
    """The most resident memory that this process has had (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e6


def tell(**figures: float) -> None:
    """One line; frameworks write on standard output too."""
    print(f"\n{MARK}{json.dumps(figures)}}}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
