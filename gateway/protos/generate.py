"""Generates gateway/_generated from the .proto files beside this script: `python gateway/protos/generate.py`.

The .proto files keep the protocols' real package names, for grpcurl and for clients in other languages. The Python
messages are made from copies under `twinserve.<package>`: a process may also hold the official packages, and protobuf
refuses two messages of one name. A package name is not on the wire; full method names and `Any` type URLs, which do
carry one, are written out where they are used.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped]
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
GENERATED = PROTOS.parent / "_generated"
# protoc derives Python imports from a file's path, so the copies lie where the modules will.
IMPORT_ROOT = Path("gateway/_generated")


def rewritten(text: str, names: set[str]) -> str:
    """A .proto file's text with our package prefix and with imports of our own files by their module path.

    Services are left out: the gateway calls methods by name, and messages are all it needs.
    """
    text = re.sub(r"^package ([\w.]+);", r"package twinserve.\1;", text, flags=re.MULTILINE)
    text = re.sub(r"^service \w+ \{.*?^\}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    if "google.protobuf.Empty" not in text:  # only the services used it, and protoc warns of an unused import
        text = text.replace('import "google/protobuf/empty.proto";\n', "")
    for name in names:
        text = text.replace(f'"{name}"', f'"{IMPORT_ROOT.as_posix()}/{name}"')
    return text


def generate(target: Path) -> list[Path]:
    """Writes the modules and their type stubs below `target`; returns them, sorted.

    Raises SystemExit where protoc fails.
    """
    sources = sorted(PROTOS.glob("*.proto"))
    names = {source.name for source in sources}
    copies = target / IMPORT_ROOT
    copies.mkdir(parents=True)
    for source in sources:
        (copies / source.name).write_text(rewritten(source.read_text(encoding="utf-8"), names), encoding="utf-8")
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={target}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            *(str(IMPORT_ROOT / source.name) for source in sources),
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")
    return sorted(path for path in copies.iterdir() if path.suffix in (".py", ".pyi"))


def main() -> int:
    """Replaces the generated files that differ, and says which; modules whose .proto is gone are removed."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path.name: path.read_bytes() for path in generate(Path(folder))}
    changed = []
    for name, content in fresh.items():
        path = GENERATED / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(name)
    for path in sorted(GENERATED.glob("*_pb2.py*")):
        if path.name not in fresh:
            path.unlink()
            changed.append(f"{path.name} (removed)")
    print("gateway/_generated:", ", ".join(changed) or "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
