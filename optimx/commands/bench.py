"""The commands that measure: ``bench update``, ``bench train``, ``bench claim``."""

import argparse
from pathlib import Path
from typing import Any

from optimx.commands.usage import Overrides, names


def add_commands(commands: Any) -> None:
    """Adds them to the command line."""
    bench = commands.add_parser("bench", help="measure optimizers")
    benches = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    _add_update(benches)
    _add_train(benches)
    _add_claim(benches)


def _add_update(benches: Any) -> None:
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
    update.set_defaults(run=_update)


def _add_train(benches: Any) -> None:
    train = benches.add_parser(
        "train",
        help="what a training step costs",
        description="What a step of a run costs: tokens per second, the share of the "
        "device's peak, of the optimizer, of drawing batches.",
        epilog="Settings are taken as by optimx train. The optimizer's share is by "
        "difference with plain SGD, timed in turns. Of devices whose peak is not "
        "known no share of it is given.",
    )
    train.add_argument("config", nargs="?", type=Path, help="a TOML file")
    train.add_argument(
        "--only", default="", metavar="NAME[,NAME...]", help="instead of the run's own"
    )
    train.add_argument("--steps", type=int, default=10, help="of one measurement")
    train.add_argument("--rounds", type=int, default=5, help="measurements of each")
    train.add_argument(
        "--by-hand", action="store_true", help="and a minimal step, written by hand"
    )
    train.add_argument("--out", type=Path, metavar="FILE.json", help="all the numbers")
    train.add_argument("--markdown", action="store_true", help="print it as Markdown")
    train.set_defaults(run=_train, takes_settings=True)


def _add_claim(benches: Any) -> None:
    claim = benches.add_parser(
        "claim",
        help="try what a paper claims",
        description="Try in miniature what a paper claims: variance (MARS), forgetting "
        "(AdEMAMix), instability (CAME). A minute or two on two CPU cores.",
        epilog="Settings of the runs are taken as by optimx train; optimizers run by "
        "their recipes. docs/claims.md says what exactly is measured.",
    )
    claim.add_argument("claim", metavar="NAME", help="of the claim")
    claim.add_argument(
        "--quick", action="store_true", help="seconds: to see that it works"
    )
    claim.add_argument(
        "--only", default="", metavar="NAME[,NAME...]", help="optimizers of the runs"
    )
    claim.add_argument("--out", type=Path, metavar="FILE.json", help="all the numbers")
    claim.add_argument("--figure", type=Path, metavar="FILE.svg", help="the picture")
    claim.set_defaults(run=_claim, takes_settings=True)


def _update(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.bench.command import bench_update
    from optimx.bench.request import Request

    request = Request(
        preset=options.preset,
        dtype=options.dtype,
        only=names(options.only),
        matrices_only=options.matrices_only,
        steps=options.steps,
        cycle=options.cycle,
    )
    bench_update(request, options.out, options.markdown)


def _train(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.bench.train_command import bench_train

    bench_train(
        options.config,
        overrides,
        only=names(options.only),
        steps=options.steps,
        rounds=options.rounds,
        by_hand=options.by_hand,
        out=options.out,
        markdown=options.markdown,
    )


def _claim(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.bench.claims.command import bench_claim
    from optimx.bench.claims.request import Request
    from optimx.training.compilation import use_compilation_cache

    use_compilation_cache()
    request = Request(
        claim=options.claim,
        quick=options.quick,
        only=names(options.only),
        overrides=tuple(overrides),
    )
    bench_claim(request, options.out, options.figure)
