"""The command line: ``python -m optimx`` or ``optimx``."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

_DONE, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_EXTRA = {"flax", "orbax", "tokenizers", "rich", "matplotlib", "tomli_w"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
      arguments: the words after ``optimx``; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        overrides, words = _take_overrides(words)
        options = _parser().parse_args(words)
        if overrides and options.command != "train":
            raise _UsageError(f"--{overrides[0][0]}: only optimx train takes settings")
        return _COMMANDS[options.command](options, overrides)
    except _UsageError as error:
        return _say(error, _BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted before the first step", _INTERRUPTED)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _say(
            f"{error.name} is not installed; the trainer needs: "
            "python -m pip install -e '.[train]'",
            _BAD_INPUT,
        )


class _UsageError(Exception):
    """Words that the command line cannot use."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage as well; one line says what is wrong.
        raise _UsageError(message)


def _say(error: object, status: int) -> int:
    print(f"optimx: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _take_overrides(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
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
                raise _UsageError(f"--{name}: needs a value")
        overrides.append((name, value))
    return overrides, rest


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optimx", description="Optimizers, and a GPT-2 to try them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a GPT-2",
        description="Train a GPT-2; without a configuration, a small one on the text "
        "of Python's standard library.",
        epilog="Any key of the configuration can be set as --section.key VALUE, for "
        "example --train.steps 500 --optimizer.name ademamix. docs/training.md lists "
        "the keys; optimx list, the optimizers.",
    )
    train.add_argument("config", nargs="?", type=Path, help="a TOML file")
    train.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run; new by default"
    )
    again = commands.add_parser("resume", help="continue an interrupted run exactly")
    again.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    text = commands.add_parser("sample", help="text from a trained model")
    text.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    text.add_argument("--prompt", required=True, help="the text to continue")
    text.add_argument("--tokens", type=int, default=128, help="how many to add")
    text.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest")
    text.add_argument("--top-k", type=int, default=50, help="choose among so many")
    text.add_argument("--seed", type=int, default=0, help="of the choice")
    commands.add_parser("list", help="optimizers and presets, what they cost")
    bench = commands.add_parser("bench", help="measure what an optimizer costs")
    benches = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    _add_bench_update(benches)
    return parser


def _add_bench_update(benches: Any) -> None:
    update = benches.add_parser(
        "update",
        help="what one update costs",
        description="What one update of each optimizer costs, beside Optax's own: "
        "time, time per leaf pass, state, temporary memory, time to compile.",
        epilog="A leaf pass reads or writes the whole parameter tree once. Ratios are "
        "to the steps of optax.adamw, and of an in-place p <- p - a g (axpy), timed "
        "right before and after.",
    )
    update.add_argument("--preset", default="small", help="the GPT-2 that is updated")
    update.add_argument("--dtype", default="float32", help="or bfloat16")
    update.add_argument(
        "--only", default="", metavar="NAME[,NAME...]", help="measure no others"
    )
    update.add_argument(
        "--matrices-only", action="store_true", help="update block matrices only"
    )
    update.add_argument("--steps", type=int, default=5, help="timed steps of each")
    update.add_argument(
        "--cycle",
        action="store_true",
        help="time two whole cycles of optimizers that refresh now and then",
    )
    update.add_argument("--out", type=Path, metavar="FILE.json", help="all the numbers")
    update.add_argument("--markdown", action="store_true", help="print it as Markdown")


def _train(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from optimx.training.compilation import use_compilation_cache
    from optimx.training.config import load_config
    from optimx.training.folder import RunFolder
    from optimx.training.loop import train

    def run():
        config = load_config(options.config, overrides)
        use_compilation_cache()
        name = config.optimizer.rule.name
        train(config, RunFolder(options.out or _new_folder(name)))

    return _guarded(run)


def _new_folder(optimizer: str) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{optimizer}"


def _resume(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from optimx.training.compilation import use_compilation_cache
    from optimx.training.folder import RunFolder
    from optimx.training.loop import resume

    def run():
        use_compilation_cache()
        resume(RunFolder(options.folder))

    return _guarded(run)


def _sample(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from optimx.training import model
    from optimx.training.checkpoint import Checkpoints
    from optimx.training.compilation import use_compilation_cache
    from optimx.training.config import load_config
    from optimx.training.data import load_tokenizer
    from optimx.training.folder import RunFolder
    from optimx.training.sample import sample

    def run():
        folder = RunFolder(options.folder)
        folder.require()
        use_compilation_cache()
        config = load_config(folder.config).model
        tokenizer = load_tokenizer(folder.tokenizer)
        with Checkpoints(folder.checkpoints) as saved:
            params = saved.restore_params(model.parameter_shapes(config))
        print(
            sample(
                config,
                params,
                tokenizer,
                options.prompt,
                tokens=options.tokens,
                temperature=options.temperature,
                top_k=options.top_k,
                seed=options.seed,
            )
        )

    return _guarded(run)


def _list(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from rich.console import Console

    from optimx.training.listing import show_list

    show_list(Console(highlight=False))
    return _DONE


def _bench(options: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from optimx.bench.command import bench_update
    from optimx.bench.request import Request

    def run():
        request = Request(
            preset=options.preset,
            dtype=options.dtype,
            only=tuple(options.only.split(",")) if options.only else (),
            matrices_only=options.matrices_only,
            steps=options.steps,
            cycle=options.cycle,
        )
        bench_update(request, options.out, options.markdown)

    return _guarded(run)


def _guarded(run) -> int:
    from optimx.training.errors import DivergedError, InputError, InterruptedRunError

    try:
        run()
    except InputError as error:
        return _say(error, _BAD_INPUT)
    except DivergedError as error:
        return _say(error, _FAILED)
    except InterruptedRunError as error:
        return _say(error, _INTERRUPTED)
    return _DONE


_COMMANDS = {
    "train": _train,
    "resume": _resume,
    "sample": _sample,
    "list": _list,
    "bench": _bench,
}
