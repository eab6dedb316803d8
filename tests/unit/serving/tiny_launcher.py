"""A launcher of two tiny servers, or of TorchServe, run as a script: prints their processes, then waits or fails.

Usage: tiny_launcher.py ARTIFACTS wait|raise|thread|stubborn PORT PORT, or tiny_launcher.py ARTIFACTS torchserve
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from serving import servers
from serving.local import LocalStack
from serving.models import find_models
from serving.settings import LaunchSettings, Ports
from tests.unit.serving.tiny import tiny


def main(artifacts: str, then: str, *ports: str) -> None:
    """Starts the servers; `thread` does so from a thread that ends, and never stops them; `stubborn` ones ignore
    SIGTERM, and are given ten minutes.
    """
    settings = LaunchSettings(artifacts=Path(artifacts), stop_grace_s=600 if then == "stubborn" else 2)
    option = "--stubborn" if then == "stubborn" else "--worker"
    if then == "torchserve":
        stages = [[servers.torchserve(settings, Ports.free(), find_models(settings.models_dir))]]
    else:
        stages = [[tiny(f"tiny-{port}", int(port), option)] for port in ports]
    stack = LocalStack(settings, stages=stages)
    if then == "thread":
        starting = threading.Thread(target=stack.__enter__)
        starting.start()
        starting.join()
        print(*(child.pid for child in stack.children), flush=True)
        threading.Event().wait()
    with stack:
        print(*(child.pid for child in stack.children), flush=True)
        if then == "raise":
            raise RuntimeError("the body failed")
        stack.watch()


if __name__ == "__main__":
    main(*sys.argv[1:])
