"""What the optimizers of a comparison did, where ``train.monitor`` is on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from optimx.bench.compare.palette import colours
from optimx.bench.compare.trials import Result

_SHOWN = {"update_rms": "RMS of the update", "cosine": "cosine with the gradient"}


def monitored_values(results: Sequence[Result]) -> dict[str, Any] | None:
    """What every optimizer has, for results.json.

    Args:
      results: of the final runs of one contender, which came to their end.

    Returns:
      ``updates``, and by the name of each value a list for each run; None where
      nothing was measured.
    """
    runs = [{one["update"]: one for one in result.monitor} for result in results]
    # A run that skipped steps has other updates at its end.
    updates = sorted(set(runs[0]).intersection(*runs[1:]))
    if not updates:
        return None
    return {"updates": updates} | {
        name: [[run[update][name] for update in updates] for run in runs]
        for name in _SHOWN
    }


def draw_monitors(results: Mapping[str, Any]) -> Figure | None:
    """Each value over the updates, means over seeds; None where there are none."""
    rows = [row for row in results["contenders"] if row.get("monitor")]
    if not rows:
        return None
    by_label = colours([r["label"] for r in results["contenders"]], results["baseline"])
    figure = Figure(figsize=(7.2, 5.4))
    panels = figure.subplots(len(_SHOWN), sharex=True)
    figure.subplots_adjust(left=0.11, right=0.73, bottom=0.09, top=0.98, hspace=0.1)
    for axes, (name, words) in zip(panels, _SHOWN.items(), strict=True):
        for row in rows:
            found = row["monitor"]
            # What is not finite is None.
            mean = np.mean(np.asarray(found[name], float), axis=0)
            front = row["label"] == results["baseline"]
            axes.plot(
                found["updates"],
                mean,
                ".-",
                color=by_label[row["label"]],
                lw=2.2 if front else 1.4,
                ms=4,
                label=row["label"],
                zorder=3 + front,
            )
        axes.grid(lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(ylabel=words)
    panels[0].set_yscale("log")
    panels[0].legend(
        loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8.5
    )
    panels[-1].set(xlabel="updates", xlim=(0, None))
    return figure
