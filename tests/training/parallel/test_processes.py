import pytest

from optimx.training.errors import InputError
from optimx.training.parallel.processes import Processes, any_says, is_first, join


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        (Processes(coordinator="a:1"), "--processes, --process: a process by hand"),
        (Processes(count=2, index=0), "--coordinator: a process by hand needs all"),
        (Processes(coordinator="a", count=2, index=0), "'a': must be host:port"),
        (Processes(coordinator="a:b", count=2, index=0), "'a:b': must be host:port"),
        (Processes(coordinator="a:1", count=2, index=2), "--process 2: .* from 0 to 1"),
        (Processes(True, "a:1", 2, 0), "--distributed: takes all from the environment"),
    ],
)
def test_words_that_make_no_process(processes, message):
    with pytest.raises(InputError, match=message):
        join(processes)


def test_one_process_waits_for_nobody():
    join(Processes())
    assert is_first()
    assert any_says(True, 3)
    assert not any_says(False, 16)
