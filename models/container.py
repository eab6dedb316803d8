"""What the container `models` does before any server starts: check the models that are there, or build them."""

from __future__ import annotations

import sys
from pathlib import Path

from models.manifest import FILE, ManifestError, check_files

ROOT = Path("/models")


def main(root: Path = ROOT) -> int:
    """0 where every file of every model is as it was built; 1 where one is not, or a build failed."""
    found = sorted(path.parent for path in root.glob(f"*/{FILE}"))
    if not found:
        from models.build import main as build

        print(f"no models in {root}: building them takes a minute or two", flush=True)
        return build(["--root", str(root)])
    for folder in found:
        try:
            manifest = check_files(folder)
        except ManifestError as exc:
            print(f"{exc}", file=sys.stderr)
            return 1
        print(f"{folder.name} {manifest.version}: {len(manifest.files)} files, sha256 as built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
