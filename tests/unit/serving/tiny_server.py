"""A server of a few lines, run as a script: 200 to every GET, after a while, until it is told otherwise.

Usage: tiny_server.py PORT [--slow SECONDS] [--worker] [--stubborn] [--die-on-get]
`--worker` starts a process of its own that ignores SIGTERM, as a busy worker would; `--stubborn` ignores it itself.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import time

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200, or ends the process."""

    def do_GET(self) -> None:
        """A GET."""
        if "--die-on-get" in sys.argv:
            print("last words", flush=True)
            os._exit(7)
        self.send_response(200)
        self.send_header("x-server", "tiny/1.0 (stand-in)")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main() -> None:
    """Serves for ever."""
    if "--worker" in sys.argv:
        subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPER])
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--slow" in sys.argv:
        time.sleep(float(sys.argv[sys.argv.index("--slow") + 1]))
    print("listening", flush=True)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
