"""What the pages say of comparisons, in numbers: `python -m tests.choosing`.

The tables that this prints stand in docs/choosing.md and docs/claims.md, and
tests/test_docs.py holds them there. They are read from docs/results; once the
results.json of a comparison is there as `NAME.json`, its tables are among them.
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
COMPARISON, BETAS, RATES = "cpu_1m", "mars_betas", "cpu_1m_rates"

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


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def comparison(name=COMPARISON):
    """The table of a comparison; None while it has not been run."""
    if not (RESULTS / f"{name}.json").exists():
        return None
    # It needs rich, as the trainer does.
    from optimx.bench.compare.table import HEADINGS, cells

    results = read(name)
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


def differences(pairs, name=COMPARISON):
    """Final losses of contenders, each less another's: pairs of labels."""
    from optimx.bench.compare import statistics, table

    ended = {r["label"]: r["losses"] for r in read(name)["contenders"] if "mean" in r}
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


DECAYS = (
    ("MARS (.9, .95)", "adamw (.9, .95)", "the correction"),
    ("MARS (.95, .99)", "adamw (.95, .99)", "the correction"),
    ("adamw (.95, .99)", "adamw (.9, .95)", "the decays"),
    ("MARS (.95, .99)", "MARS (.9, .95)", "the decays"),
    ("MARS (.95, .99)", "adamw (.9, .95)", "both"),
)


def decays():
    """What MARS's correction and its decays change in the final loss."""
    found = differences(lambda _: [pair[:2] for pair in DECAYS], BETAS)
    rows = [[what, *both] for (*_, what), both in zip(DECAYS, found, strict=True)]
    return markdown(["what differs", "contender", "less", "final loss less it"], rows)


def rates():
    """The table of gains over AdamW at the learning rate that its sweep dropped."""
    from optimx.bench.compare import statistics, table

    (adamw,) = read(RATES)["contenders"]
    theirs, results = np.array(adamw["losses"]), read(COMPARISON)
    rows = []
    for row in results["contenders"]:
        ours, curve = np.array(row["losses"]), row["curve"]
        steps, losses = np.array(curve["steps"]), np.array(curve["losses"])
        found = {
            "loss_difference": statistics.loss_difference(ours, theirs),
            "token_ratio": statistics.token_ratio(
                steps, losses, theirs, results["steps"]
            ),
        }
        found = {key: dataclasses.asdict(one) for key, one in found.items()}
        rows.append([row["label"], table.difference(found), table.tokens(found)])
    headings = ["contender", "final loss less that of adamw at 0.006", "tokens to it"]
    return markdown(headings, rows)


def evidence():
    """What README's table says of each optimizer that the comparison had."""
    from optimx.bench.compare.table import difference, tokens

    results = read(COMPARISON)
    said = {}
    for row in results["contenders"]:
        if row["label"] == results["baseline"]:
            said[row["label"]] = f"{row['mean']:.3f}: the baseline"
        elif "mean" in row:
            said[row["label"]] = f"{difference(row)}; {tokens(row)}"
    return {name: text for name, text in said.items() if name in registry.names()}


def tables():
    """Everything that a page must hold: pages, each with a table."""
    page = "choosing.md"
    found = [(page, costs())]
    if comparison():
        parts = comparison(), against("adamw (.95, .99)"), crossings(), rates()
        found += [(page, table) for table in parts]
    if comparison(BETAS):
        found += [("claims.md", table) for table in (comparison(BETAS), decays())]
    return found


if __name__ == "__main__":
    for page, table in tables():
        print(f"{page}\n\n{table}\n")
    if comparison():
        print("README\n")
        print("\n".join(f"{name}: {text}" for name, text in evidence().items()))
