"""What is shown of a claim while it is tried."""

import io

import pytest
from rich.console import Console

from optimx.bench.claims import progress
from optimx.bench.claims.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_by_the_pieces_so_far(clock):
    shown = io.StringIO()
    with Progress(Console(file=shown)) as made:
        made.expect(200)
        clock[0] = 100.0
        made.did()
        assert shown.getvalue() == "0%, compiling\n"
        # From then on: the first piece is no measure of others.
        clock[0] = 120.0
        made.did(39)
        assert made.left() == "1:22 left"
        # Not a terminal: a line now and then.
        assert "left" not in shown.getvalue()
        clock[0] = 150.0
        made.did(60)
        assert shown.getvalue().splitlines()[1] == "50%, 0:51 left"
        made.did(150)
        assert made.left() == "0:00 left"


def test_a_terminal_is_shown_a_bar():
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=60, highlight=False)
    with Progress(console) as made:
        made.expect(3)
        made.did()
        made.did()
        made.say("adamw, step 1: [fine]")
    assert "left" in shown.getvalue()
    assert "adamw, step 1: [fine]" in shown.getvalue()
