import signal
import threading

from optimx.training.interrupt import stop_on_signals


def test_the_first_signal_asks_and_the_second_is_deadly():
    with stop_on_signals() as stop:
        assert not stop.received
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not stop_is_left_behind()


def stop_is_left_behind():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    return any("receive" in getattr(h, "__name__", "") for h in handlers)


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with stop_on_signals() as stop:
            seen.append(signal.getsignal(signal.SIGINT) is before)
            seen.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, False]
