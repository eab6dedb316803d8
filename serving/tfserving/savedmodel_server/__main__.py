"""`python -m serving.tfserving.savedmodel_server`: reads the flags, then loads TensorFlow and serves."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from serving.tfserving.savedmodel_server.flags import parse


def main() -> NoReturn:
    """Serves until told to stop, and ends the process with the server's exit code."""
    flags = parse(sys.argv[1:])
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    # Read by TensorFlow's C++ side when it is loaded: errors only, unless the user wants more.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow imports Keras where it can, a third of its start and 100 MB; a session runs saved graphs without it.
    sys.modules["keras"] = None  # type: ignore[assignment]
    # Loading TensorFlow takes seconds, and a wrong flag is refused before.
    from serving.tfserving.savedmodel_server.server import run  # noqa: PLC0415

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # A traceback for whatever a client sends that is no HTTP; the door itself logs what fails in it.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    code = run(flags)
    logging.shutdown()
    sys.stderr.flush()
    # A call that outlived the drain still holds a thread, which an ordinary exit would wait for.
    os._exit(code)


if __name__ == "__main__":
    main()
