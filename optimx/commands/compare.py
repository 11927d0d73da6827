"""The command that compares: ``compare``."""

import argparse
from pathlib import Path
from typing import Any

from optimx.commands.usage import Overrides


def add_commands(commands: Any) -> None:
    """Adds it to the command line."""
    compare = commands.add_parser(
        "compare",
        help="several optimizers on the same task",
        description="Train the same model on the same data for the same budget with "
        "several optimizers, each with the best of its own grid, and write a report.",
        epilog="Stopped at any moment and started again, it goes on. Settings of the "
        "runs are taken as by optimx train. docs/comparing.md has the file's format.",
    )
    compare.add_argument("config", type=Path, help="a TOML file with [compare]")
    compare.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the comparison; runs/compare-NAME by default",
    )
    compare.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="JSON",
        help="a results.json whose runs of this comparison need not be made again",
    )
    compare.add_argument(
        "--dry-run", action="store_true", help="what would be run, and for how long"
    )
    compare.set_defaults(run=_compare, takes_settings=True)


def _compare(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.bench.compare.command import compare
    from optimx.training.compilation import use_compilation_cache

    use_compilation_cache()
    compare(
        options.config,
        overrides,
        options.out,
        source=options.source,
        dry_run=options.dry_run,
    )
