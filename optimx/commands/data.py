"""The command about data: ``prepare``."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from optimx.commands.usage import Overrides


def add_commands(commands: Any) -> None:
    """Adds ``prepare`` to the command line."""
    bins = commands.add_parser(
        "prepare",
        help="text into token files",
        description="Turn text into .bin shards of tokens for data.source = bin. "
        "Stopped at any moment and started again, it goes on.",
    )
    bins.add_argument(
        "source", nargs="?", default="", help="a file, a folder, a glob, or stdlib"
    )
    bins.add_argument("--out", type=Path, metavar="DIR", required=True)
    bins.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json")
    bins.add_argument("--vocab", type=int, help="train a tokenizer of so many entries")
    bins.add_argument(
        "--shard-tokens", type=int, default=100_000_000, help="tokens of a file"
    )
    bins.add_argument(
        "--validation", type=float, default=0.1, help="share that is held out"
    )
    bins.add_argument("--hub", default="", metavar="NAME", help="a dataset to stream")
    bins.add_argument("--config", default="", help="of the dataset")
    bins.add_argument("--split", default="train", help="of the dataset")
    bins.add_argument("--text-column", default="text", help="of the dataset")
    bins.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.data.prepare import Preparation, prepare
    from optimx.training.data.prepare_report import PrepareReport
    from optimx.training.errors import InterruptedRunError

    fields = {field.name for field in dataclasses.fields(Preparation)}
    asked = {key: value for key, value in vars(options).items() if key in fields}
    try:
        with PrepareReport() as report:
            prepare(Preparation(**asked), report)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "interrupted; finished shards stay, and the same command continues"
        ) from error
