"""The command line: ``python -m optimx`` or ``optimx``."""

import argparse
import errno
import sys
from collections.abc import Sequence
from typing import NoReturn

from optimx.commands import bench, compare, data, runs, weights
from optimx.commands.usage import Overrides, UsageError

_DONE, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_EXTRA = {"flax", "orbax", "tokenizers", "safetensors"}
_EXTRA |= {"rich", "matplotlib", "tomli_w"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
      arguments: the words after ``optimx``; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        overrides, words = _take_overrides(words)
        options = _parser().parse_args(words)
        if overrides and not getattr(options, "takes_settings", False):
            raise UsageError(
                f"--{overrides[0][0]}: only optimx train, resume, compare, plan, "
                "bench train and bench claim take settings"
            )
        return _guarded(options, overrides)
    except UsageError as error:
        return _say(error, _BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted", _INTERRUPTED)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _say(
            f"{error.name} is not installed; the trainer needs: "
            "python -m pip install -e '.[train]'",
            _BAD_INPUT,
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage as well; one line says what is wrong.
        raise UsageError(message)


def _say(error: object, status: int) -> int:
    print(f"optimx: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _take_overrides(words: list[str]) -> tuple[Overrides, list[str]]:
    """Splits ``--section.key value`` and ``--section.key=value`` from the rest."""
    overrides, rest = [], []
    queue = iter(words)
    for word in queue:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            rest.append(word)
            continue
        if not equals:
            value = next(queue, None)
            if value is None:
                raise UsageError(f"--{name}: needs a value")
        overrides.append((name, value))
    return overrides, rest


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optimx", description="Optimizers, and a GPT-2 to try them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in (runs, compare, weights, data, bench):
        family.add_commands(commands)
    return parser


def _guarded(options: argparse.Namespace, overrides: Overrides) -> int:
    from optimx.training.errors import (
        DivergedError,
        InputError,
        InterruptedRunError,
        StorageError,
    )

    try:
        options.run(options, overrides)
    except InputError as error:
        return _say(error, _BAD_INPUT)
    except (DivergedError, StorageError) as error:
        return _say(error, _FAILED)
    except OSError as error:
        # Whatever else can happen to a disk during a run, such as a full one.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}cannot be written: {error.strerror}", _BAD_INPUT)
    except InterruptedRunError as error:
        return _say(error, _INTERRUPTED)
    return _DONE
