"""The built models, as `models/` leaves them under artifacts/models/."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.processes import TAIL_LINES, LaunchError

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """One model that can be served on both stacks. Paths are absolute."""

    name: str
    folder: Path

    @property
    def contract(self) -> Path:
        """Its data contract."""
        return self.folder / "contract.json"

    @property
    def archive(self) -> Path:
        """The .mar for TorchServe."""
        return self.folder / "torchscript" / f"{self.name}.mar"

    @property
    def saved_model(self) -> Path:
        """The folder of numbered SavedModels for TensorFlow Serving."""
        return self.folder / "savedmodel"

    def missing(self) -> list[str]:
        """What a complete build has and this one lacks; empty for a complete one."""
        parts = [path for path in (self.contract, self.archive) if not path.is_file()]
        if not any(self.saved_model.glob("*/saved_model.pb")):
            parts.append(self.saved_model / "1" / "saved_model.pb")
        return [str(path.relative_to(self.folder)) for path in parts]


def find_models(models_dir: Path) -> tuple[BuiltModel, ...]:
    """The models with a contract, by name; raises LaunchError for one whose build is not complete."""
    built = []
    # A hidden folder is a build that goes on, or was interrupted.
    for contract in sorted(models_dir.glob("[!.]*/contract.json")):
        model = BuiltModel(contract.parent.name, contract.parent.resolve())
        if missing := model.missing():
            raise LaunchError(
                f"model '{model.name}' in {model.folder} is incomplete: {', '.join(missing)} is missing; "
                "`twinserve models build` builds it again"
            )
        built.append(model)
    return tuple(built)


def build_command(models_dir: Path) -> list[str]:
    """The command that builds the models, in a process of its own: frameworks stay out of the launcher."""
    return [sys.executable, "-m", "models.build", "--root", str(models_dir), "--events"]


def build_models(command: list[str], on_event: Callable[[Event], None]) -> None:
    """Runs `build_command`, telling each event; raises LaunchError with the build's own reason.

    It writes one JSON object a line: {"event": "step", "model", "step", "status", "detail"?}, or {"event": "error",
    "model"?, "message"}.
    """
    failure = ""
    # Frameworks talk a lot on the error output; it matters only where the build fails.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            for event in _events(process.stdout or ()):
                if event.get("event") == "error":
                    failure = str(event.get("message"))
                else:
                    on_event(event)
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode:
            errors.seek(0)
            last = errors.read().splitlines()[-TAIL_LINES:]
            raise LaunchError("\n".join([f"building the models failed: {failure or 'its last words'}", *last]))


def finished_step(event: Event) -> str:
    """A finished step in words; empty for one that has only begun."""
    if event.get("status") == "start":
        return ""
    words = (event.get("step"), event.get("model"), event.get("detail") or event.get("status"))
    return " ".join(str(word) for word in words if word)


def _events(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)
