"""Makes or verifies variants of one model for one stack, in a process of its own: `models.workshop` starts it.

Frameworks crash, leak and do not agree with each other in one process; what is lost here is one variant. Writes one
JSON object a line on standard output: {"variant", "status": "start"}, then {"variant", "status": "done" | "failed",
"detail"}.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from models import manifest, record
from models.build import import_tensorflow, quiet_frameworks
from models.hidden import hidden_folder
from models.job import Job, job_of
from models.variants import VARIANTS, Variant, VariantError
from models.verify import ParityError, judge
from models.zoo import MODELS, ModelDefinition
from models.zoo.dataset import Dataset, Rows

REASON_CHARS = 500


class Worker:
    """One model's variants, made or verified one after another."""

    def __init__(self, definition: ModelDefinition, base: Path) -> None:
        self._definition = definition
        self._base = base
        self._data: Dataset = definition.module("data").load(manifest.load(base).seed)

    def make(self, variant: Variant, digest: str) -> record.Record:
        """Makes one variant and proves it; where that fails, leaves a record with the reason in its place."""
        with hidden_folder(self._base / manifest.VARIANTS, variant.name) as folder:
            made = self._made(variant, digest, folder)
            made.save(folder)
        return made

    def verify(self, variant: Variant) -> record.Record:
        """Proves what was made before again; raises RecordError or ParityError where it no longer holds."""
        known = record.load(self._base, variant)
        if not known.available:
            return known
        record.check_files(self._base, known)
        job = self._job(variant, record.folder_of(self._base, variant.name))
        judge(job.definition, job.contract, variant.module().predict(job, job.test_rows), *self._expected())
        return known

    def _made(self, variant: Variant, digest: str, folder: Path) -> record.Record:
        model = self._definition.name
        job = self._job(variant, folder)
        try:
            exporter = variant.module()
            if reason := exporter.unavailable(job):
                return record.unavailable(model, variant, reason, digest)
            contract = folder / "contract.json"
            contract.write_text(job.contract.to_json(), "utf-8")
            exporter.export(job)
            files = {name: value for name, value in manifest.files_of(folder).items() if name != contract.name}
            proven = judge(job.definition, job.contract, exporter.predict(job, job.test_rows), *self._expected())
            contract.write_text(proven.to_json(), "utf-8")
            return record.available(model, variant, proven, folder, files, digest)
        except Exception as exc:
            # Whatever a framework raises: the others go on.
            (folder / record.ERROR_LOG).write_text(traceback.format_exc(), "utf-8")
            return record.unavailable(model, variant, last_line(exc), digest, failed=True)

    def _job(self, variant: Variant, folder: Path) -> Job:
        return job_of(self._definition, variant, self._base, folder, self._data)

    @cache  # noqa: B019 - one worker a process
    def _expected(self) -> tuple[Rows, object]:
        """The eager original's outputs on the test set, and the targets."""
        from models.train import predict_torch, tested

        job = self._job(VARIANTS["eager"], self._base)
        outputs = predict_torch(job.torch_net(), tested(self._definition, self._data))
        return {self._definition.outputs[0].name: outputs}, self._data.test_targets


def last_line(exc: BaseException) -> str:
    """What an exception says, in one line; of what a framework raises, with its kind."""
    said = " ".join(line.strip() for line in str(exc).splitlines() if line.strip())
    if not isinstance(exc, ParityError | VariantError):
        said = f"{type(exc).__name__}: {said}"
    return said[:REASON_CHARS]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, which is not 0 where no variant could even be tried."""
    parser = argparse.ArgumentParser(prog="python -m models.worker", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the built model's folder, called as the model")
    parser.add_argument("--verify", action="store_true", help="prove what is made, and make nothing")
    parser.add_argument("tasks", nargs="+", help="a variant, with =DIGEST where it is to be made")
    options = parser.parse_args(arguments)
    tasks = [(VARIANTS[name], digest) for name, _, digest in (task.partition("=") for task in options.tasks)]
    quiet_frameworks(hide_gpus=all(variant.device == "cpu" for variant, _ in tasks))
    if any(variant.stack == "tfserving" for variant, _ in tasks):
        import_tensorflow()
    worker = Worker(MODELS[options.base.name], options.base)
    for variant, digest in tasks:
        _tell(variant, "start", "")
        if options.verify:
            _verify(worker, variant)
            continue
        made = worker.make(variant, digest)
        _tell(variant, "done" if made.available else "failed", described(made))
    return 0


def _verify(worker: Worker, variant: Variant) -> None:
    try:
        _tell(variant, "done", described(worker.verify(variant)))
    except Exception as exc:
        traceback.print_exc()
        _tell(variant, "failed", last_line(exc))


def described(made: record.Record) -> str:
    """A record, for people."""
    if not made.available:
        return f"not available: {made.reason}"
    return f"{(made.bytes or 0) / 1e3:.0f} kB, {made.proof()}"


def _tell(variant: Variant, status: str, detail: str) -> None:
    # Frameworks print on standard output too: a line of our own begins anew.
    print("\n" + json.dumps({"variant": variant.name, "status": status, "detail": detail}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
