"""A server for as long as a block lasts, and `rectify bench`: what the scripts here and in `peers/` share."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


@contextlib.contextmanager
def served(command, env=None):
    """Runs `command` with `--port` and a free port; yields its address and its process once it answers at `/health`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [str(part) for part in [*command, "--port", port]]
    # A session of its own: some servers leave children behind.
    server = subprocess.Popen(command, env={**os.environ, **(env or {})}, start_new_session=True, **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).read()
                break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None:
                    sys.exit(f"{command[0]} ended with {server.returncode}")
                time.sleep(0.002)
        yield url, server
    finally:
        server.terminate()
        server.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def bench(rectify, what, *options):
    """The report of `rectify bench`."""
    command = [rectify, "bench", what, *options, "--json", "--progress", "never"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"rectify bench {what} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
