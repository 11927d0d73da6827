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
COMPARISON, BETAS = "cpu_1m", "mars_betas"
RATES, OTHERS, DECAY = "cpu_1m_rates", "cpu_1m_others", "cpu_1m_decay"

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


def gain(row, losses):
    """A contender's final losses less others, and the share of their tokens."""
    from optimx.bench.compare import statistics, table

    ours, steps = np.array(row["losses"]), np.array(row["curve"]["steps"])
    curves, theirs = np.array(row["curve"]["losses"]), np.array(losses)
    found = {
        "loss_difference": statistics.loss_difference(ours, theirs),
        "token_ratio": statistics.token_ratio(steps, curves, theirs, int(steps[-1])),
    }
    found = {key: dataclasses.asdict(one) for key, one in found.items()}
    return table.difference(found), table.tokens(found)


def rows_of(name):
    """Contenders of a comparison by label."""
    return {row["label"]: row for row in read(name)["contenders"]}


def rates():
    """The table of rules at twice the rate that they chose, and at the better one."""
    chosen, doubled = rows_of(COMPARISON), rows_of(RATES)
    baseline = doubled[read(RATES)["baseline"]]
    rows = []
    for label, row in chosen.items():
        rate, cells, better = row["point"]["learning_rate"], ["-", "-"], row
        if label in doubled:
            twice = doubled[label]
            assert twice["point"]["learning_rate"] == 2 * rate
            cells = [f"{twice['mean']:.4f}", gain(twice, row["losses"])[0]]
            better = min(row, twice, key=lambda row: row["mean"])
        found = gain(better, baseline["losses"])
        if better is baseline:
            found = "the baseline", "1"
        rows.append([label, f"{rate:g}", f"{row['mean']:.4f}", *cells, *found])
    headings = [
        *("contender", "its rate", "final loss", "at twice the rate", "difference"),
        *("the better one less adamw at 0.006", "tokens to it"),
    ]
    return markdown(headings, rows)


# What trains matrices and what trains the rest: labels in OTHERS, or in the comparison.
CROSSED = {
    ("mars_shampoo at 0.006", "mars_adamw at 0.006"): "mars_shampoo",
    ("mars_shampoo at 0.006", "adamw (.95, .99) at 0.003"): "mars_shampoo, adamw",
    ("mars_shampoo at 0.006", "ademamix at 0.002"): "mars_shampoo, ademamix",
    ("muon at 0.012", "adamw at 0.012"): "muon",
    ("muon at 0.012", "adamw (.95, .99) at 0.003"): "muon, adamw",
    ("muon at 0.012", "mars_adamw at 0.006"): "muon, mars_adamw",
    ("muon at 0.012", "ademamix at 0.002"): "muon, ademamix",
    ("ademamix_muon at 0.012", "adamw at 0.012"): "ademamix_muon",
    ("ademamix_muon at 0.012", "mars_adamw at 0.006"): "ademamix_muon, mars_adamw",
    ("ademamix_muon at 0.012", "ademamix at 0.002"): "ademamix_muon, ademamix",
    (
        "mars_ademamix_muon at 0.012",
        "mars_adamw at 0.006",
    ): "mars_ademamix_muon, mars_adamw",
}
OF_ONE_RATE = "mars_shampoo", "muon"


def others():
    """The table of rules of matrices by what trains the rest."""
    found = rows_of(COMPARISON) | rows_of(OTHERS)
    adamw = rows_of(RATES)["adamw"]
    rows = []
    for names, label in CROSSED.items():
        row, cells = found[label], []
        for other in OF_ONE_RATE:
            less = gain(row, found[other]["losses"])[0]
            cells.append("-" if other == label else less)
        tokens = gain(row, adamw["losses"])[1]
        rows.append([*names, f"{row['mean']:.4f}", *cells, tokens])
    headings = [
        *("matrices", "the rest", "final loss"),
        *(f"less that of {label}" for label in OF_ONE_RATE),
        "tokens to the loss of adamw at 0.006",
    ]
    return markdown(headings, rows)


# What two rules of matrices are read for, the two, and the rule for the rest of both.
ONE_PART = (
    ("MARS's correction", "mars_shampoo", "muon", "mars_adamw"),
    ("MARS's correction", "mars_shampoo", "muon", "adamw"),
    ("MARS's correction", "mars_shampoo", "muon", "ademamix"),
    ("MARS's correction", "mars_ademamix_muon", "ademamix_muon", "mars_adamw"),
    ("the slow average", "ademamix_muon", "muon", "mars_adamw"),
    ("the slow average", "ademamix_muon", "muon", "ademamix"),
)


def one_part():
    """The table of what a part of a rule of matrices changes."""
    found, rows = rows_of(OTHERS), []
    # The standing comparison's mars_shampoo has mars_adamw for the rest.
    found["mars_shampoo, mars_adamw"] = found["mars_shampoo"]
    for part, *names, rest in ONE_PART:
        ours, theirs = (found[f"{name}, {rest}"] for name in names)
        rows.append([part, *names, rest, gain(ours, theirs["losses"])[0]])
    headings = ["the part", "matrices", "less", "the rest of both", "difference"]
    return markdown(headings, rows)


def by_decay():
    """Contenders by label and weight decay."""
    found = {}
    for name in (DECAY, OTHERS, COMPARISON):
        for label, row in rows_of(name).items():
            found[label, row["optimizer"]["weight_decay"]] = row
    return found


BOTH_DECAYS = 0.01, 0.1
# What a rule with MARS is held against at the weight decay of both.
WITHOUT_MARS = (
    ("mars_adamw", "adamw"),
    ("mars_adamw", "adamw (.95, .99)"),
    ("mars_shampoo", "muon, mars_adamw"),
)


def weight_decays():
    """The table of rules with both weight decays."""
    found, rows = by_decay(), []
    for label in rows_of(DECAY):
        low, high = (found[label, decay] for decay in BOTH_DECAYS)
        assert low["point"] == high["point"]
        means = [f"{row['mean']:.4f}" for row in (low, high)]
        rows.append([label, *means, gain(low, high["losses"])[0]])
    headings = ["contender", *(f"weight decay {decay:g}" for decay in BOTH_DECAYS)]
    return markdown([*headings, "the first less the second"], rows)


def at_one_decay():
    """The table of rules with MARS less those without, their weight decay the same."""
    found, rows = by_decay(), []
    for label, other in WITHOUT_MARS:
        cells = ["-", "-"]
        for i, decay in enumerate(BOTH_DECAYS):
            if (label, decay) in found:
                losses = found[other, decay]["losses"]
                cells[i] = gain(found[label, decay], losses)[0]
        rows.append([label, other, *cells])
    headings = [f"both with {decay:g}" for decay in BOTH_DECAYS]
    return markdown(["contender", "less", *headings], rows)


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
        parts = comparison(), against("adamw (.95, .99)"), crossings()
        parts += rates(), others(), one_part(), weight_decays(), at_one_decay()
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
