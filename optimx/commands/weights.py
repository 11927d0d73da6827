"""The commands about weights and text."""

import argparse
import sys
from pathlib import Path
from typing import Any

from optimx.commands.usage import Overrides, UsageError, new_folder


def add_commands(commands: Any) -> None:
    """Adds ``sample``, ``import-gpt2`` and ``export-gpt2`` to the command line."""
    text = commands.add_parser("sample", help="text from a trained model")
    text.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    prompt = text.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="the text to continue")
    prompt.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="holds it, but for a last line break; - is the standard input",
    )
    text.add_argument("--tokens", type=int, default=128, help="how many to add")
    text.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest")
    text.add_argument("--top-k", type=int, default=50, help="choose among so many")
    text.add_argument("--seed", type=int, default=0, help="of the choice")
    theirs = commands.add_parser("import-gpt2", help="a run from Hugging Face's GPT-2")
    theirs.add_argument(
        "source",
        type=Path,
        metavar="DIR",
        help="folder with Hugging Face's config.json and model.safetensors",
    )
    theirs.add_argument(
        "--out", type=Path, metavar="RUN", help="folder of the run; new by default"
    )
    ours = commands.add_parser("export-gpt2", help="Hugging Face's GPT-2 from a run")
    ours.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    ours.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    text.set_defaults(run=_sample)
    theirs.set_defaults(run=_import)
    ours.set_defaults(run=_export)


def _sample(options: argparse.Namespace, overrides: Overrides) -> None:
    if options.prompt is None and options.prompt_file is None:
        raise UsageError("required: --prompt TEXT or --prompt-file FILE")
    from optimx.training import compilation
    from optimx.training.checkpoints.trained import read_trained
    from optimx.training.data import load_tokenizer
    from optimx.training.folder import RunFolder
    from optimx.training.sample import sample

    folder = RunFolder(options.folder)
    folder.require()
    folder.require_tokenizer()
    prompt = _prompt(options)
    compilation.use_compilation_cache()
    tokenizer = load_tokenizer(folder.tokenizer)
    config, params = read_trained(folder)
    print(
        sample(
            config,
            params,
            tokenizer,
            prompt,
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed,
        )
    )


def _prompt(options: argparse.Namespace) -> str:
    from optimx.training.errors import InputError

    if options.prompt is not None:
        return options.prompt
    name = options.prompt_file
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = content.decode()
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is not UTF-8 text (byte {error.start})") from error
    # Editors and echo end a text with a line break that nobody meant.
    return text.removesuffix("\n").removesuffix("\r")


def _import(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.interop import import_gpt2

    out = options.out or new_folder("import")
    import_gpt2(options.source, out)
    print(f"The run is in {out}; to train it: optimx train --model.init {out}")


def _export(options: argparse.Namespace, overrides: Overrides) -> None:
    from optimx.training.interop import export_gpt2

    export_gpt2(options.folder, options.out)
    print(f"The model is in {options.out}")
