"""The commands that train: ``train``, ``resume``, ``plan``; and ``list``."""

import argparse
from pathlib import Path
from typing import Any

from optimx.commands.usage import Overrides, UsageError, names, new_folder


def add_commands(commands: Any) -> None:
    """Adds them to the command line."""
    _add_train(commands)
    again = commands.add_parser(
        "resume",
        help="continue an interrupted run exactly",
        epilog="With settings such as --optimizer.name ademamix it goes on with "
        "another optimizer; what the two states have in common is carried over.",
    )
    again.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    _add_processes(again)
    again.set_defaults(run=_resume, takes_settings=True)
    _add_plan(commands)
    listed = commands.add_parser("list", help="optimizers and presets, what they cost")
    listed.set_defaults(run=_list)


def _add_train(commands: Any) -> None:
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
    _add_processes(train)
    train.set_defaults(run=_train, takes_settings=True)


def _add_processes(parser: Any) -> None:
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, whose number and index Slurm, Kubernetes, Open "
        "MPI or a TPU slice says",
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="this one, from 0")


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="compile a training step for devices that are not there",
        description="Compile the step of a run for a TPU slice, or for CPU devices, "
        "and say what a device holds, does and sends.",
        epilog="Settings are taken as by optimx train. Times are the least that the "
        "chip's published peaks allow, not measurements.",
    )
    plan.add_argument("config", type=Path, help="a TOML file")
    plan.add_argument(
        "--topology", required=True, help="v5e:4x4, v4:2x2x4, ...; or cpu:8"
    )
    plan.add_argument(
        "--optimizers",
        default="",
        metavar="NAME[:STATE][,...]",
        help="compare these, such as adamw,mars_adamw:int8",
    )
    plan.add_argument(
        "--mesh",
        action="append",
        default=[],
        metavar="AXIS=N[,...]",
        help="such as data=4,fsdp=4,offload=state; several times to compare",
    )
    plan.add_argument("--out", type=Path, metavar="FILE.json", help="all the numbers")
    plan.add_argument("--markdown", action="store_true", help="print it as Markdown")
    plan.set_defaults(run=_plan, takes_settings=True)


def _train(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.compilation import use_compilation_cache
    from optimx.training.config import load_config
    from optimx.training.folder import RunFolder
    from optimx.training.train import train

    several = options.distributed or options.coordinator is not None
    if several and options.out is None:
        # Each process would name a folder by its own clock.
        raise UsageError("--out: several processes need one, which all of them see")
    config = load_config(options.config, overrides)
    _join(options)
    use_compilation_cache()
    name = config.optimizer.rule.name
    train(config, RunFolder(options.out or new_folder(name)))


def _resume(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.compilation import use_compilation_cache
    from optimx.training.folder import RunFolder
    from optimx.training.train import resume

    _join(options)
    use_compilation_cache()
    resume(RunFolder(options.folder), overrides=overrides)


def _join(options: argparse.Namespace) -> None:
    from optimx.training.parallel.processes import Processes, join

    join(
        Processes(
            environment=options.distributed,
            coordinator=options.coordinator,
            count=options.processes,
            index=options.process,
        )
    )


def _plan(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.planning.report import plans, show_plans

    wanted = plans(
        options.config,
        overrides,
        options.topology,
        names(options.optimizers),
        options.mesh,
    )
    show_plans(wanted, options.out, options.markdown)


def _list(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.listing import show_list

    show_list()
