"""How TensorFlow's servers are run, and what becomes of a variant that they cannot load.

TensorFlow Serving, and the stand-in with it, ends where one of its models does not load. A variant that it names is
dropped, and the server is started again with the others.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from serving import probes
from serving.models import BuiltModel
from serving.processes import Server, ServerDied, describe_exit
from serving.settings import LaunchSettings, Ports

FILES = Path(__file__).parent / "tfserving"
PROGRAM = "tensorflow_model_server"
STAND_IN = "serving.tfserving.savedmodel_server"
WITHOUT_GRAPPLER = "savedmodel-nograppler"
# What a model may take longer than a default one: XLA compiles before it is ready. Half of it for each.
ALLOWANCE_S = 30.0
REASON_CHARS = 500
# In the words with which it ends: each model that did not load, and why (core/server_core.cc).
ENDED = "did not become available: "
LOST = re.compile(r"\{\{name: (?P<name>\S+) version: \d+\} due to error: ")
END = re.compile(r"\},\s*(?:\}|$)")
# In its log: a model that was loaded, as TensorFlow Serving and as the stand-in say it.
LOADED = re.compile(
    r"Successfully loaded servable version \{name: (?P<name>\S+) version: \d+\}"
    r"|INFO model (?P<stand_in>\S+) version \d+: available after"
)


def _nothing(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Drops:
    """Variants that turn out not to load: `why` has the reason of each by its name on the server.

    `allowed` are those that may be dropped, all but the default ones; `report` is told of each.
    """

    allowed: frozenset[str]
    why: MutableMapping[str, str]
    report: Callable[[str], None] = _nothing

    def of(self, died: ServerDied, served: Iterable[str]) -> set[str]:
        """Drops what ended a server; raises its end where that was no variant, or none that is known.

        Where it crashed while it loaded, any variant that it had not loaded yet may have been the cause.
        """
        log = died.log.read_text(errors="replace") if died.log.is_file() else ""
        found = failures(log)
        if not found and died.code < 0:
            loading = sorted(set(served) - loaded(log) & self.allowed)
            together = f", with {len(loading) - 1} others" if len(loading) > 1 else ""
            found = dict.fromkeys(
                loading, f"TensorFlow's server {describe_exit(died.code)} while it loaded it{together}"
            )
        if not found or not self.allowed.issuperset(found):
            raise died
        # The next start writes its log anew.
        kept = died.log.replace(died.log.with_name(f"{died.log.stem}-before.log"))
        for name, reason in found.items():
            self.why[name] = reason
            self.report(f"left out: {name}: {reason}; more is in {kept}")
        return set(found)


def failures(log: str) -> dict[str, str]:
    """Why each of the models that ended a server did not load, by name; empty where something else ended it."""
    _, _, words = log.rpartition(ENDED) if ENDED in log else ("", "", "")
    parts = LOST.split(words)[1:]
    return {
        name: f"it does not load: {' '.join(END.split(text, 1)[0].split())[:REASON_CHARS]}"
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def loaded(log: str) -> set[str]:
    """The models that a server has said to have loaded."""
    return {found["name"] or found["stand_in"] for found in LOADED.finditer(log)}


def tfserving(
    settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel], drops: Drops | None = None
) -> Server:
    """TensorFlow Serving where its program is on the PATH, else the stand-in, which takes the same options.

    A variant that does not load is dropped where `drops` is given; otherwise it ends the start.
    """
    options = []
    if any(variant.name.startswith("tflite") for model in models for variant in model.variants):
        # Of the folders that have one: a SavedModel's is served as before.
        options.append("--prefer_tflite_model=true")
    return _server("tfserving", settings, ports, options, drops, saved_models(models))


def tfserving_nograppler(
    settings: LaunchSettings, ports: Ports, models: Sequence[BuiltModel], drops: Drops | None = None
) -> Server:
    """A second server of TensorFlow's, whose sessions do not rewrite what they run."""
    options = [f"--platform_config_file={FILES / 'nograppler.config'}"]
    served = saved_models(models, without_grappler=True)
    return _server("tfserving-nograppler", settings, ports, options, drops, served)


def _server(
    name: str,
    settings: LaunchSettings,
    ports: Ports,
    more: Sequence[str],
    drops: Drops | None,
    served: Mapping[str, Path],
) -> Server:
    config = settings.emptied(name) / "models.config"
    config.write_text(models_config(served))
    its_ports = [f"{name.replace('-', '_')}_{door}_port" for door in ("grpc", "rest")]
    grpc, rest = (getattr(ports, each) for each in its_ports)
    host = settings.host
    options = [
        f"--port={grpc}",
        f"--rest_api_port={rest}",
        f"--model_config_file={config}",
        # A model that does not load ends the start at once: by default it is tried for five minutes more.
        "--max_num_load_retries=0",
        *more,
    ]
    if program := shutil.which(PROGRAM):
        # The real server has no option to listen on one address only.
        command, title = [program, *options], tfserving_title()
    else:
        command = [sys.executable, "-m", STAND_IN, *options, f"--bind_address={host}"]
        title = "savedmodel-server (stand-in)"  # with its version once it answers
    names = list(served)
    return Server(
        name=name,
        command=command,
        waiting_for=probes.tfserving_waits_for(host, rest, names),
        describe=lambda: probes.tfserving_name(host, rest, names[0], title),
        ports=ports.listed(its_ports),
        url=f"http://{host}:{rest}",
        health=f"/v1/models/{names[0]}",
        note=f"as {title}",
        allowance_s=ALLOWANCE_S * len(names) / 2,
        again=drops and partial(_again, drops, served, partial(_server, name, settings, ports, more, drops)),
    )


def _again(
    drops: Drops, served: Mapping[str, Path], server: Callable[[Mapping[str, Path]], Server], died: ServerDied
) -> Server | None:
    """What is started in the place of a server that died while it started: the same without what it cannot load."""
    lost = drops.of(died, served)
    left = {name: folder for name, folder in served.items() if name not in lost}
    return server(left) if left else None


def saved_models(models: Iterable[BuiltModel], *, without_grappler: bool = False) -> dict[str, Path]:
    """What TensorFlow's server serves, or its second process does: folders of numbered versions by name there."""
    found = {}
    for model in models:
        if "tfserving" in model.stacks and not without_grappler:
            found[model.name] = model.saved_model
        for variant in model.on("tfserving"):
            if (variant.name == WITHOUT_GRAPPLER) is without_grappler:
                found[variant.served_name] = variant.folder
    return found


def models_config(served: Mapping[str, Path]) -> str:
    """TensorFlow Serving's model_config_list, in protobuf's text format, of folders by model name."""
    # JSON's string escapes are among those of protobuf's text format.
    entries = [
        f"  config {{\n    name: {json.dumps(name)}\n    base_path: {json.dumps(str(folder))}\n"
        f'    model_platform: "tensorflow"\n  }}\n'
        for name, folder in served.items()
    ]
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def tfserving_title() -> str:
    """What the TensorFlow Serving on the PATH calls itself, with its version, such as `TensorFlow Serving 2.19.1`."""
    told = subprocess.run(  # noqa: S603 - the program that is run anyway
        [PROGRAM, "--version"], capture_output=True, text=True, check=False
    ).stdout
    lines = [line for line in told.splitlines() if line.startswith("TensorFlow ModelServer:")]
    return f"TensorFlow Serving {lines[0].partition(':')[2].strip()}" if lines else "TensorFlow Serving"
