"""What the files of a checkpoint were when it was committed.

Orbax commits a step by renaming its folder, so a process that dies leaves whole steps.
A disk that loses a bit does not tell: what is restored is another number. The SHA-256
of every file, written right after the commit, does.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

_FOLDER = "manifests"


class Manifests:
    """The manifests of a run's checkpoints, one file a step.

    They stand beside the steps, not inside: while a step is being removed, its
    manifest tells that the rest of it is no checkpoint.

    Args:
      checkpoints: the folder that holds the folders of the steps.
    """

    def __init__(self, checkpoints: Path):
        self._checkpoints = checkpoints

    def _path(self, step: int) -> Path:
        return self._checkpoints / _FOLDER / f"{step}.json"

    def has(self, step: int) -> bool:
        """Whether the step has a manifest."""
        return self._path(step).exists()

    def write(self, step: int) -> None:
        """Describes the files of a committed step; all of the manifest or nothing."""
        files = {name: _describe(path) for name, path in self._files(step)}
        path = self._path(step)
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps({"step": step, "files": files}, indent=1) + "\n")

    def keep_only(self, steps: Iterable[int]) -> None:
        """Forgets all other steps."""
        kept = {self._path(step) for step in steps}
        for path in (self._checkpoints / _FOLDER).glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def damage(self, step: int) -> str | None:
        """The first file that is not what it was and how it differs; None if sound.

        Args:
          step: that has a manifest.
        """
        path = self._path(step)
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            step_, files = manifest["step"], dict(manifest["files"])
            expected = {k: (v["bytes"], v["sha256"]) for k, v in files.items()}
        except OSError as error:
            return f"{path}: {error.strerror}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{path}: is no manifest"
        if step_ != step:
            return f"{path}: is the manifest of step {step_}"
        for name, (size, digest) in expected.items():
            path = self._checkpoints / str(step) / name
            try:
                found = _describe(path)
            except OSError as error:
                return f"{path}: {error.strerror}"
            if found["bytes"] != size:
                return f"{path}: has {found['bytes']} bytes, had {size}"
            if found["sha256"] != digest:
                return f"{path}: has another SHA-256 than when it was saved"
        return None

    def _files(self, step: int) -> list[tuple[str, Path]]:
        folder = self._checkpoints / str(step)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [(path.relative_to(folder).as_posix(), path) for path in paths]


def _describe(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def write_text(path: Path, text: str) -> None:
    """Writes a file that is either there as a whole or as it was before."""
    new = path.with_name(path.name + ".tmp")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # A name that outlives a power cut must not point to nothing.
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
