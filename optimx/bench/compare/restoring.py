"""Runs that are known from a ``results.json`` alone, put back where they were."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optimx.bench.compare.timing import Timing
from optimx.bench.compare.trials import FINAL, Trial, Trials
from optimx.training.errors import InputError

_HEADER = "folder", "label", "point", "seed", "steps", "tokens", "final_val_loss"


def read_results(path: Path, possible: Iterable[Trial]) -> dict[str, Any]:
    """A ``results.json`` with runs of a comparison.

    Args:
      path: of the file.
      possible: all trials of the comparison.

    Raises:
      InputError: it cannot be read, is no results.json, or has no run of this
        comparison.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["label"]: row["point"] for row in results["contenders"]}
        for one in results["trials"]:
            _ = [one[key] for key in _HEADER], rows[one["label"]], results["seeds"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: is no results.json of optimx compare: {error!r}"
        ) from error
    names = {trial.name for trial in possible}
    if not any(one["folder"] in names for one in results["trials"]):
        raise InputError(
            f"{path}: has no run of this comparison: another model, other data, other "
            "settings or other contenders"
        )
    return results


def restore(
    results: Mapping[str, Any], possible: Iterable[Trial], trials: Trials
) -> int:
    """Writes the folders of trials that the results know and that are not there.

    Of runs that chose a point only the last loss is known, and of those that were
    compared every evaluation; that is all a comparison needs. Finals that were
    measured by monitors, or of a point that no longer won, are left to be run again:
    not all that there was to know of them is there.

    Args:
      results: as :func:`read_results` gives them.
      possible: all trials of the comparison.
      trials: their folder.

    Returns:
      How many were written.
    """
    by_name = {trial.name: trial for trial in possible}
    curves = dict(_curves(results))
    written = 0
    for summary in results["trials"]:
        summary = dict(summary)
        trial = by_name.get(summary.pop("folder"))
        if trial is None or trials.done(trial):
            continue
        curve = [(summary["steps"], summary["final_val_loss"])]
        if trial.stage == FINAL and summary["final_val_loss"] is not None:
            curve = curves.get(_key(summary, summary["seed"]))
            if curve is None:
                continue
        tokens = summary["tokens"] // summary["steps"]
        with trials.begin(trial) as log:
            for step, loss in curve:
                if loss is not None:
                    line = {"step": step, "tokens": step * tokens, "val_loss": loss}
                    log.write(json.dumps(line) + "\n")
        trials.finish(trial, summary)
        written += 1
    return written


def timings(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was timed, as ``timing.json`` has it: by the first final's folder."""
    fields = [field.name for field in dataclasses.fields(Timing)]
    found = {}
    for one in results["trials"]:
        if one["seed"] == results["seeds"][0]:
            row = _row(results, one["label"])
            if row.get("timing") and row["point"] == one["point"]:
                found[one["folder"]] = {key: row["timing"][key] for key in fields}
    return found


def _row(results: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    return next(row for row in results["contenders"] if row["label"] == label)


def _key(one: Mapping[str, Any], seed: int) -> str:
    return json.dumps([one["label"], one["point"], seed], sort_keys=True)


def _curves(results: Mapping[str, Any]) -> Iterator[tuple[str, list]]:
    """By label, point and seed the evaluations of finals: (step, validation loss)."""
    for row in results["contenders"]:
        curve = row.get("curve")
        if not curve or row.get("monitor"):
            continue
        for seed, losses in zip(results["seeds"], curve["losses"], strict=True):
            evaluations = zip(map(int, curve["steps"]), losses, strict=True)
            yield _key(row, seed), list(evaluations)
