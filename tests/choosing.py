"""What docs/choosing.md says in numbers: `python -m tests.choosing`.

The tables that this prints stand in the page, and tests/test_docs.py holds them there.
They are read from docs/results; once the comparison's results.json is there as
`cpu_1m.json`, its table is one of them.
"""

import dataclasses
import json
import pathlib

import numpy as np

from optimx import registry

DOCS = pathlib.Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"

# Later measurements first: the first one that has an optimizer counts.
UPDATES = ("update_elementwise_cpu", "update_cpu")
COMPARISON = "cpu_1m"

# Of the default run; and of what no update was timed of.
LOSSES = DOCS / "training.md", "What the default run reaches"
STATES = DOCS / "memory.md", "Bytes of state for each parameter"


def markdown(headings, rows):
    """A table whose columns but the first are numbers."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def column(page, heading, index):
    """A column of the table under a heading, by the names in the first."""
    after = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = {}
    for line in after.splitlines():
        if line.startswith("| `"):
            row = [cell.strip(" `") for cell in line.strip("|").split("|")]
            found[row[0]] = row[index]
    return found


def updates():
    """What one update took and kept, by optimizer."""
    found = {}
    for file in UPDATES:
        with (RESULTS / f"{file}.json").open() as stream:
            for row in json.load(stream)["optimizers"]:
                found.setdefault(row["name"], row)
    return found


def costs():
    """The table of what each optimizer costs, and reached in one run."""
    measured, losses = updates(), column(*LOSSES, index=2)
    states = column(*STATES, index=1)
    rows = []
    for name in registry.names():
        state, time = states.get(name, "-"), "-"
        if name in measured:
            state = f"{measured[name]['state_bytes_per_parameter']:.2f}"
            time = f"{measured[name]['step_over_adamw']:.2f}"
        rows.append([f"`{name}`", state, time, losses.get(name, "-")])
    headings = [
        "optimizer",
        "state, bytes per parameter",
        "update / adamw, CPU",
        "validation loss, one seed",
    ]
    return markdown(headings, rows)


def comparison():
    """The table of the big comparison; None while it has not been run."""
    file = RESULTS / f"{COMPARISON}.json"
    if not file.exists():
        return None
    # It needs rich, as the trainer does.
    from optimx.bench.compare.table import HEADINGS, cells

    results = json.loads(file.read_text())
    rows = [cells(row, results) for row in results["contenders"]]
    sentences = "\n".join(f"- {sentence}" for sentence in results["conclusion"])
    return f"{markdown(HEADINGS, rows)}\n\n{sentences}"


# Crossings of the comparison, and what each of them crosses.
PARENTS = {
    "mars_ademamix": ("mars_adamw", "ademamix"),
    "ademamix_came": ("ademamix", "came"),
    "mars_soap": ("mars_adamw", "soap"),
    "ademamix_muon": ("ademamix", "muon", "muon (Optax)"),
}


def differences(pairs):
    """Final losses of contenders, each less another's: pairs of labels."""
    from optimx.bench.compare import statistics, table

    results = json.loads((RESULTS / f"{COMPARISON}.json").read_text())
    ended = {r["label"]: r["losses"] for r in results["contenders"] if "mean" in r}
    for pair in pairs(ended):
        found = statistics.loss_difference(*(np.array(ended[name]) for name in pair))
        yield *pair, table.difference({"loss_difference": dataclasses.asdict(found)})


def against(label):
    """The table of final losses less those of a contender other than the baseline."""

    def pairs(ended):
        names = sorted(ended.keys() - {label}, key=lambda name: sum(ended[name]))
        return [(name, label) for name in names]

    rows = [[name, text] for name, _, text in differences(pairs)]
    return markdown(["contender", f"final loss less that of {label}"], rows)


def crossings():
    """The table of final losses of crossings less those of what they cross."""

    def pairs(ended):
        return [(name, parent) for name in PARENTS for parent in PARENTS[name]]

    return markdown(["crossing", "parent", "final loss less it"], differences(pairs))


def evidence():
    """What README's table says of each optimizer that the comparison had."""
    from optimx.bench.compare.table import difference, tokens

    results = json.loads((RESULTS / f"{COMPARISON}.json").read_text())
    said = {}
    for row in results["contenders"]:
        if row["label"] == results["baseline"]:
            said[row["label"]] = f"{row['mean']:.3f}: the baseline"
        elif "mean" in row:
            said[row["label"]] = f"{difference(row)}; {tokens(row)}"
    return {name: text for name, text in said.items() if name in registry.names()}


def tables():
    """Everything that the page must hold."""
    found = [costs()]
    if comparison():
        found += [comparison(), against("adamw (.95, .99)"), crossings()]
    return found


if __name__ == "__main__":
    print("\n\n".join(tables()))
    if comparison():
        print("\nREADME\n")
        print("\n".join(f"{name}: {text}" for name, text in evidence().items()))
