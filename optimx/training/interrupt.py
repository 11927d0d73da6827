"""Signals that ask a run to stop."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopRequest:
    """Whether a signal has asked the run to stop."""

    def __init__(self):
        self.received = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second one kills.

    Outside the main thread, where Python allows no handlers, signals stay as they
    are.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def receive(number, frame):
        request.received = True
        signal.signal(number, signal.SIG_DFL)

    before = {
        number: signal.signal(number, receive)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
