"""The report as one file of HTML that needs no other and no network."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from optimx.bench.compare.palette import (
    GRID,
    INK,
    MUTED,
    colours,
    name_of,
    variables,
    with_variables,
)
from optimx.bench.compare.table import HEADINGS, cells
from optimx.training.report import duration

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --card: #1f2227; DARK }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem;
  background: var(--page); color: var(INK);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; }
p, ul { max-width: 46rem; } li { margin: .3rem 0; }
.quiet { color: var(MUTED); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem .4rem 0; text-align: right;
  border-bottom: 1px solid var(GRID); }
th { color: var(MUTED); font-weight: 500; vertical-align: bottom; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:first-child { font-weight: 600; }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%;
  margin-right: .5em; }
.figures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, sans-serif !important; }
figcaption { color: var(MUTED); font-size: .875rem; margin-top: .4rem; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; font-size: .8rem;
  border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem;
  font-size: .9rem; }
dt { color: var(MUTED); }
dd { margin: 0; overflow-wrap: anywhere; }
"""

_CAPTIONS = {
    "differences": "Final loss less that of the baseline, with its interval: a full "
    "dot where the interval leaves 0 out, an arrow where it lies outside of the "
    "picture. At the right, the share of the baseline's tokens that is enough.",
    "loss_tokens": "Validation loss against tokens: the mean over seeds, and from the "
    "best to the worst of them. Numbers are final losses.",
    "loss_steps": "The same against steps.",
    "loss_time": "The same against time: steps times what a step takes by itself, "
    "without compiling and evaluating.",
    "learning_rates": "How much the learning rate matters: the loss at the end of the "
    "sweep's first runs, the best over what else was tried. The circle is the best.",
    "monitors": "What the optimizers did: the root mean square of the update, and its "
    "cosine with the gradient (-1 is gradient descent); means over seeds.",
}


def page(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole file.

    Args:
      results: the contents of results.json.
      pictures: SVG by name.
    """
    title = _title(results)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_summary(results))}</p>',
        "<h2>What the runs show</h2>",
        _sentences(results),
        f'<p class="quiet">{escape(_caution(results))}</p>',
        "<h2>Numbers</h2>",
        _table(results),
        "<h2>Pictures</h2>",
        f'<div class="figures">{_figures(pictures)}</div>',
        *_shared(results),
        "<h2>How it was made</h2>",
        _circumstances(results),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_css()}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _title(results: Mapping[str, Any]) -> str:
    others = [row["label"] for row in results["contenders"]]
    others.remove(results["baseline"])
    shown = ", ".join(others) if len(others) < 4 else f"{len(others)} optimizers"
    return f"{shown} against {results['baseline']}"


def _css() -> str:
    light, dark = variables()
    css = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    for word, colour in (("INK", INK), ("MUTED", MUTED), ("GRID", GRID)):
        css = css.replace(f"var({word})", f"var({name_of(colour)})")
    return css


def _summary(results: Mapping[str, Any]) -> str:
    model = results["run"]["model"]
    return (
        f"GPT-2 with {results['parameters'] / 1e6:.2f}M parameters "
        f"({model['layers']} layers, width {model['width']}), {results['steps']:,} "
        f"steps of {results['tokens_per_step']:,} tokens, "
        f"{results['tokens'] / 1e6:.2f}M in all; {len(results['seeds'])} seeds that "
        f"no choice was made with; on {results['hardware']['device']}."
    )


def _caution(results: Mapping[str, Any]) -> str:
    many = len(results["contenders"]) - 1
    return (
        "Runs of one seed share initial parameters and batches and are compared in "
        "pairs. Intervals are bootstrap intervals over seeds at 95 %, stretched for "
        f"the small number of them; with {many} comparisons, about one in twenty "
        "would miss. What holds for this model, these data and this budget need not "
        "hold for others. The token ratio is read from one whole schedule: halfway "
        "its learning rate is still high, so that a run of fewer tokens with a "
        "schedule of its own would need fewer yet."
    )


def _sentences(results: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in results["conclusion"])
    return f"<ul>{items}</ul>" if items else "<p>Nothing was compared.</p>"


def _table(results: Mapping[str, Any]) -> str:
    labels = [row["label"] for row in results["contenders"]]
    by_label = colours(labels, results["baseline"])
    head = "".join(f"<th>{escape(text)}</th>" for text in HEADINGS)
    rows = []
    for row in results["contenders"]:
        dot = (
            f'<span class="dot" style="background: '
            f'var({name_of(by_label[row["label"]])})"></span>'
        )
        texts = [escape(text) for text in cells(row, results)]
        texts[0] = dot + texts[0]
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figures(pictures: Mapping[str, str]) -> str:
    return "\n".join(
        f'<figure aria-label="{escape(_CAPTIONS[name])}">{with_variables(svg)}'
        f"<figcaption>{escape(_CAPTIONS[name])}</figcaption></figure>"
        for name, svg in pictures.items()
    )


def _shared(results: Mapping[str, Any]) -> list[str]:
    rows = [one for one in results["shared_programs"] if "speed_up" in one]
    if not rows:
        return []
    lines = "".join(
        f"<tr><td>{escape(one['label'])}</td><td>{one['stage']}</td>"
        f"<td>{one['runs']}</td><td>{one['alone_step_ms']:.1f}</td>"
        f"<td>{one['shared_step_ms']:.1f}</td><td>{one['speed_up']:.2f}</td>"
        f"<td>{'together' if one['together'] else 'one by one'}</td></tr>"
        for one in rows
    )
    headings = ("contender", "stage", "runs", "one step ms", "step of all ms")
    head = "".join(f"<th>{text}</th>" for text in (*headings, "speed-up", "chosen"))
    return [
        "<h2>Runs in one program</h2>",
        '<p class="quiet">Measured before each group of runs that differ in seed, '
        "learning rate and weight decay alone.</p>",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>",
    ]


def _circumstances(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    hardware = results["hardware"]
    facts = {
        "command": results["command"],
        "versions": versions,
        "hardware": f"{hardware['device']}, {hardware['devices']} device(s), "
        f"{hardware['cpu_cores']} CPU cores, {hardware['system']}",
        "data (SHA-256)": results["data_sha256"],
        "seeds": ", ".join(map(str, results["seeds"])),
        "trials": f"{len(results['trials'])}, {duration(results['trial_seconds'])} "
        "in all",
    }
    listed = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>"
        for key, value in facts.items()
    )
    optimizers = {
        row["label"]: row.get("optimizer", "diverged") for row in results["contenders"]
    }
    said = json.dumps({"run": results["run"], "optimizers": optimizers}, indent=1)
    return (
        f"<dl>{listed}</dl><details><summary>Every setting</summary>"
        f"<pre>{escape(said)}</pre></details>"
    )
