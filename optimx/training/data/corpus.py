"""Text files: found, read, hashed and split by file."""

import dataclasses
import glob
import hashlib
import io
import sysconfig
import tokenize
from collections.abc import Iterable
from pathlib import Path

from optimx.training.errors import InputError
from optimx.training.sections import Data

# Tests repeat themselves, and hold files that are broken on purpose.
_LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents of a text source, in the order of their names.

    Attributes:
      train: texts to learn from.
      validation: texts that are held out.
      sha256: hash of every name and every byte of both.
    """

    train: list[str]
    validation: list[str]
    sha256: str


def read_corpus(data: Data) -> Corpus:
    """Reads the files that ``data`` names and splits them.

    A file is held out when the hash of its relative path says so: the split does
    not depend on the other files. If that leaves a side empty, the file with the
    smallest hash is held out; a single file is cut in two, its end held out.

    Raises:
      InputError: no files, no text in them, a file that cannot be read or is not
        UTF-8, a corpus that is not the one ``data.sha256`` expects.
    """
    if data.source == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        files = {name: read_source(path) for name, path in stdlib_files(root)}
        where = f"{root}: the standard library"
    else:
        found = find_files("data.path", data.path)
        files = {name: _read_text(path) for name, path in found}
        where = f"data.path = {data.path!r}"
    files = {name: text for name, text in files.items() if text.strip()}
    if not files:
        raise InputError(f"{where}: holds no text")
    sha256 = _hash(files.items())
    if data.sha256 and data.sha256 != sha256:
        raise InputError(
            f"data.sha256 = {data.sha256!r}: {where} has the hash {sha256}, so this is "
            "not the text of that run; without data.sha256 any text is accepted"
        )
    train, validation = _split(files, data.validation)
    return Corpus(train, validation, sha256)


def stdlib_files(root: Path) -> list[tuple[str, Path]]:
    """The sources of a standard library by name, tests left out."""
    found = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    kept = [path for path in found if not _LEFT_OUT.intersection(path.parts[:-1])]
    return [(path.as_posix(), root / path) for path in kept]


def find_files(key: str, pattern: str) -> list[tuple[str, Path]]:
    """The files by name that a file, a folder or a glob names, in order.

    Raises:
      InputError: the glob names no file; ``key`` is where it was given.
    """
    path = Path(pattern)
    if path.is_dir():
        names = sorted(name for name in path.rglob("*") if name.is_file())
        kept = [name.relative_to(path) for name in names]
        kept = [name for name in kept if not any(p.startswith(".") for p in name.parts)]
        return [(name.as_posix(), path / name) for name in kept]
    if path.is_file():
        return [(path.name, path)]
    names = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    names = [name for name in names if name.is_file()]
    if not names:
        raise InputError(f"{key} = {pattern!r}: names no file")
    return [(name.as_posix(), name) for name in names]


def _read_text(path: Path) -> str:
    content = _read(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text (byte {error.start}); a glob in data.path "
            "can leave it out"
        ) from error


def read_source(path: Path) -> str:
    """A Python file, in the encoding that it declares.

    Raises:
      InputError: it cannot be read or decoded.
    """
    content = _read(path)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not text of a known encoding") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _hash(files: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for name, text in files:
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def _split(files: dict[str, str], share: float) -> tuple[list[str], list[str]]:
    if len(files) == 1:
        (text,) = files.values()
        cut = len(text) - max(1, round(share * len(text)))
        return [text[:cut]], [text[cut:]]
    held_out = held_out_names(files, share)
    train = [text for name, text in files.items() if name not in held_out]
    return train, [files[name] for name in files if name in held_out]


def held_out_names(names: Iterable[str], share: float) -> set[str]:
    """Of several names, those whose hash holds them out; at least one, never all."""
    position = {name: position_of(name) for name in names}
    held_out = {name for name in position if position[name] < share}
    if not held_out or len(held_out) == len(position):
        held_out = {min(position, key=position.__getitem__)}
    return held_out


def position_of(name: str) -> float:
    """Where the name falls in [0, 1), evenly and always the same."""
    head = hashlib.sha256(name.encode()).digest()[:8]
    return int.from_bytes(head, "big") / 2**64
