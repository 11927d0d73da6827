"""What a folder of prepared shards says about itself, and how far it has come."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from optimx.training.data.formats import HEADER_BYTES
from optimx.training.data.shard_writer import Shard, put_file, writing
from optimx.training.errors import InputError

SIDES = ("train", "val")


@dataclasses.dataclass
class Manifest:
    """The content of ``manifest.json``, written anew after every shard.

    Attributes:
      options: what was asked for.
      source: what the documents come from, with hashes of its files.
      complete: whether all shards are there.
      dtype: of a token.
      tokenizer_sha256: of ``tokenizer.json``.
      shards: that are finished, by side.
    """

    options: dict[str, Any]
    source: dict[str, Any]
    complete: bool = False
    dtype: str = ""
    tokenizer_sha256: str = ""
    shards: dict[str, list[Shard]] = dataclasses.field(
        default_factory=lambda: {side: [] for side in SIDES}
    )

    def tokens(self, side: str) -> int:
        """Tokens of a side's finished shards."""
        return sum(shard.tokens for shard in self.shards[side])

    def save(self, folder: Path) -> None:
        """Replaces the folder's manifest.

        Raises:
          InputError: the folder cannot be written, or the disk is full.
        """
        counts = {side: self.tokens(side) for side in SIDES}
        content = dataclasses.asdict(self) | {"tokens": counts}
        text = json.dumps(content, indent=1) + "\n"
        put_file(folder / "manifest.json", text.encode())


def open_manifest(
    folder: Path, options: dict[str, Any], source: dict[str, Any]
) -> Manifest:
    """A new manifest, or that of the same work, begun earlier.

    Raises:
      InputError: the folder holds something else, or the same source prepared
        otherwise, or what was another source then.
    """
    path = folder / "manifest.json"
    if not path.exists():
        _require_free(folder)
        return Manifest(options, source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("tokens")
        shards = {
            side: [_shard(record) for record in content["shards"][side]]
            for side in SIDES
        }
        manifest = Manifest(**(content | {"shards": shards}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the manifest of optimx prepare") from error
    for name, value in options.items():
        before = manifest.options.get(name)
        if before != value:
            raise InputError(
                f"{folder}: was begun with {name} = {before!r}, now it is {value!r}; "
                "--out names another folder"
            )
    if manifest.source != source:
        raise InputError(
            f"{folder}: was begun with other documents{_difference(manifest, source)}; "
            "--out names another folder"
        )
    manifest.shards = {side: _kept(folder, manifest, side) for side in SIDES}
    _sweep(folder)
    return manifest


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes; the file must be small."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shard(record: dict[str, Any]) -> Shard:
    return Shard(**(record | {"position": tuple(record["position"])}))


def _require_free(folder: Path) -> None:
    names = [path.name for path in (*folder.glob("*.bin"), folder / "tokenizer.json")]
    taken = [name for name in names if (folder / name).exists()]
    if taken:
        raise InputError(
            f"{folder}: holds {taken[0]}, and no manifest of optimx prepare; --out "
            "names another folder"
        )


def _sweep(folder: Path) -> None:
    """Removes what an attempt that was killed was writing."""
    for path in folder.glob(".*.partial"):
        with writing(folder):
            path.unlink()


def _difference(manifest: Manifest, source: dict[str, Any]) -> str:
    before, now = manifest.source.get("files"), source.get("files")
    if not (before and now):
        return ""
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    return f": {changed[0]} is not what it was" if changed else ": their order changed"


def _kept(folder: Path, manifest: Manifest, side: str) -> list[Shard]:
    """The shards before the first one that is gone or cut short."""
    width = int(manifest.dtype.removeprefix("uint") or 0) // 8
    kept = []
    for shard in manifest.shards[side]:
        path = folder / shard.file
        size = HEADER_BYTES + shard.tokens * width
        if not path.is_file() or path.stat().st_size != size:
            manifest.complete = False
            break
        kept.append(shard)
    return kept
