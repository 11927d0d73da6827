"""A process that has imported the trainer and forks real runs of it, one at a time.

A run is then there in milliseconds rather than seconds, so that many of them can be
killed. JAX starts its threads with its first backend, in the child: there is nothing
here that a fork could tear apart.

Every line on standard input is ``{"arguments": [...], "log": file, "kill": null}``, or
with ``"kill": [file, lines, seconds]`` a run that is killed so many seconds after the
file has so many lines. The answer is one line, the exit status, or minus the number of
the signal that ended the run.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable


def main() -> None:
    from optimx import cli
    from optimx.training import compilation, train  # noqa: F401

    assert threading.active_count() == 1
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            become(lambda job=job: cli.main(job["arguments"]), job["log"])
        print(wait(child, job["kill"]), flush=True)


def become(run: Callable[[], int], log: str) -> None:
    """Turns this process into a run, as its own interpreter would."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        sys.exit(run())
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(70)


def wait(child: int, kill: list | None) -> int:
    """The child's exit status; it is killed when it is time."""
    end = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill and end is None and lines(kill[0]) >= kill[1]:
            end = time.monotonic() + kill[2]
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            kill = end = None
        time.sleep(0.002)


def lines(file: str) -> int:
    try:
        with open(file, "rb") as opened:
            return opened.read().count(b"\n")
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
