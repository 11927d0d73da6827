"""Our trajectories beside those of the authors' code: `python -m tests.fidelity`.

The table that this prints stands in docs/fidelity.md, and tests/test_golden.py
holds it there.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

import optimx
from tests import runs
from tests.oracles import adamw as adamw_paper
from tests.oracles import ademamix as ademamix_paper
from tests.oracles import came as came_paper
from tests.oracles import mars as mars_paper
from tests.oracles import matrices as matrices_paper

FOLDER = pathlib.Path(__file__).parent / "golden"

# Agreement to rounding: both sides are in float64 (2e-16) and differ in the order
# of a few operations over forty steps. CAME divides by roots of residuals that
# are themselves differences, which costs it three digits.
ROUNDING = 1e-10

# The authors' half-life is that of b + 1e-8. At b3 = 0.9999 this moves
# 1 / (1 - b3) by one part in ten thousand of its end value, and the parameters by
# 1e-5 of their travel in forty steps.
NUDGED = 2e-5

# Newton-Schulz multiplies small singular values, and the rounding in them, by up
# to 3.4 in each of five steps.
ITERATED = 1e-9

# In MARS-M's code the vectors' AdamW adds its epsilon before the bias correction,
# 2e-8 of their travel. Its matrices agree to rounding.
EARLY_EPSILON = 1e-7

# A kernel is (out, in) in the authors' PyTorch.
TORCH_AXES = {"in_axis": -1, "out_axis": -2}


@dataclasses.dataclass(frozen=True)
class Run:
    """One recorded run: trees of numpy arrays and the authors' hyperparameters."""

    init: dict
    gradients: dict
    params: dict
    stale: dict
    meta: dict


def read(file):
    with np.load(FOLDER / f"{file}.npz") as data:
        trees = {"init": {}, "grads": {}, "params": {}, "stale": {}}
        for key in data:
            if key != "meta":
                kind, leaf = key.split("/")
                trees[kind][leaf] = data[key]
        meta = json.loads(str(data["meta"]))
    init, gradients, params, stale = trees.values()
    # Recorded at every step, though the authors' code takes zero at the first.
    stale = {k: np.concatenate([0 * v[:1], v[1:]]) for k, v in stale.items()}
    return Run(init, gradients, params, stale, meta)


def mars(meta):
    b1, b2 = meta["betas"]
    hyper = {"gamma": meta["gamma"], "b1": b1, "b2": b2, "eps": meta["eps"]}
    return hyper | {"learning_rate": meta["lr"], "weight_decay": meta["weight_decay"]}


def mars_sign(meta):
    # Their Lion reads neither b2 nor eps.
    return {k: v for k, v in mars(meta).items() if k not in ("b2", "eps")}


def mars_m(meta):
    return {
        "gamma": meta["gamma"],
        "b1": meta["momentum"],
        "learning_rate": meta["lr"],
        "weight_decay": meta["wd"],
    }


def mars_m_vectors(meta):
    # Their AdamW has the matrices' learning rate and weight decay, and an epsilon
    # that was left at its default.
    b1, b2 = meta["adamw_betas"]
    hyper = {"b1": b1, "b2": b2, "eps": 1e-8}
    return hyper | {"learning_rate": meta["lr"], "weight_decay": meta["wd"]}


def vectors(meta):
    b1, b2 = meta["betas_1d"]
    hyper = {"b1": b1, "b2": b2, "eps": meta["eps"]}
    return hyper | {
        "learning_rate": meta["lr_1d"],
        "weight_decay": meta["weight_decay_1d"],
    }


def ademamix(meta, papers=optimx):
    b1, b2, b3 = meta["betas"]
    alpha = meta["alpha"]
    if "beta3_warmup" in meta:
        b3 = papers.half_life_warmup(b1, b3, meta["beta3_warmup"])
        alpha = papers.linear_warmup(alpha, meta["alpha_warmup"])
    hyper = {"b1": b1, "b2": b2, "b3": b3, "alpha": alpha, "eps": meta["eps"]}
    return hyper | {"learning_rate": meta["lr"], "weight_decay": meta["weight_decay"]}


def came(meta):
    b1, b2, b3 = meta["betas"]
    eps, confidence_eps = meta["eps"]
    return {
        "b1": b1,
        "b2": b2,
        "b3": b3,
        "eps": eps,
        "confidence_eps": confidence_eps,
        "clip_threshold": meta["clip_threshold"],
        "learning_rate": meta["lr"],
        "weight_decay": meta["weight_decay"],
    }


def with_vectors(matrices):
    """The authors' default: what is not a matrix goes to AdamW, as a user says it."""

    def build(meta):
        return optimx.matrices_only(
            matrices(meta), otherwise=optimx.adamw(**vectors(meta))
        )

    return build


def mars_adamw(meta):
    return optimx.mars_adamw(**mars(meta))


def mars_lion(meta):
    return optimx.mars_lion(**mars_sign(meta))


def mars_shampoo(meta, **otherwise):
    """Vectors take the MARS-AdamW rule unless something else is said."""
    return optimx.mars_shampoo(
        **mars(meta), **TORCH_AXES, labels=optimx.by_rank, **otherwise
    )


def or_vectors(matrices):
    """The same default for the oracles, which know one tensor at a time."""

    def oracle(x, gradients, meta):
        if x.ndim >= 2:
            return matrices(x, gradients, meta)
        return adamw_paper.adamw(x, gradients, **vectors(meta))

    return oracle


def mars_adamw_oracle(x, gradients, meta, **stale):
    return mars_paper.mars_adamw(x, gradients, **mars(meta), **stale)


def mars_lion_oracle(x, gradients, meta):
    return mars_paper.mars_lion(x, gradients, **mars_sign(meta))


def mars_shampoo_oracle(x, gradients, meta):
    return matrices_paper.mars_shampoo(x, gradients, **mars(meta), **TORCH_AXES)


def mars_m_oracle(x, gradients, meta):
    return matrices_paper.mars_m(x, gradients, **mars_m(meta), **TORCH_AXES)


def ademamix_oracle(x, gradients, meta):
    hyper = ademamix(meta, papers=ademamix_paper)
    return ademamix_paper.ademamix(x, gradients, **hyper)


def came_oracle(x, gradients, meta):
    return came_paper.came(x, gradients, **came(meta))


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer, the recorded run it must retrace, and how closely."""

    algorithm: str
    file: str
    build: Callable[[dict], optax.GradientTransformation]
    oracle: Callable[..., np.ndarray]
    bound: float = ROUNDING


CASES = (
    Case("mars_adamw", "mars_adamw_all", mars_adamw, mars_adamw_oracle),
    Case(
        "mars_adamw",
        "mars_adamw",
        with_vectors(mars_adamw),
        or_vectors(mars_adamw_oracle),
    ),
    Case(
        "mars_adamw_exact",
        "mars_adamw_exact_all",
        lambda meta: optimx.mars_adamw_exact(**mars(meta)),
        mars_adamw_oracle,
    ),
    Case("mars_lion", "mars_lion_all", mars_lion, mars_lion_oracle),
    Case(
        "mars_lion",
        "mars_lion",
        with_vectors(mars_lion),
        or_vectors(mars_lion_oracle),
    ),
    Case(
        "ademamix",
        "ademamix",
        lambda meta: optimx.ademamix(**ademamix(meta)),
        ademamix_oracle,
    ),
    Case(
        "ademamix",
        "ademamix_warmup",
        lambda meta: optimx.ademamix(**ademamix(meta)),
        ademamix_oracle,
        NUDGED,
    ),
    Case("came", "came", lambda meta: optimx.came(**came(meta)), came_oracle),
    Case(
        "mars_shampoo",
        "mars_shampoo_all",
        mars_shampoo,
        mars_shampoo_oracle,
        ITERATED,
    ),
    Case(
        "mars_shampoo",
        "mars_shampoo",
        lambda meta: mars_shampoo(meta, otherwise=optimx.adamw(**vectors(meta))),
        or_vectors(mars_shampoo_oracle),
        ITERATED,
    ),
    Case(
        "mars_m",
        "mars_m",
        lambda meta: optimx.mars_m(
            **mars_m(meta),
            **TORCH_AXES,
            labels=optimx.by_rank,
            otherwise=optimx.adamw(**mars_m_vectors(meta)),
        ),
        mars_m_oracle,
        EARLY_EPSILON,
    ),
)

# Recorded, and not yet in the registry. Registering one without giving its files
# a case above fails a test.
AWAITING = {}


def measure(case):
    """The optimizer's largest deviation from the recorded run, per travel."""
    run = read(case.file)
    extra = {"stale_grads": run.stale} if run.stale else {}
    with runs.double_precision():
        ours = runs.trajectory(
            case.build(run.meta), run.init, run.gradients, jnp.float64, **extra
        )
    return runs.error(run.init, ours, run.params)


def measure_oracle(case):
    """The same for the numpy oracle, which takes one leaf at a time."""
    run = read(case.file)
    ours = {}
    for leaf, x in run.init.items():
        stale = {"stale": run.stale[leaf]} if run.stale else {}
        ours[leaf] = case.oracle(x, run.gradients[leaf], run.meta, **stale)
    return runs.error(run.init, ours, run.params)


def in_words(number):
    """One digit, rounded up: the digits below differ between machines."""
    if number == 0:
        return "0"
    exponent = math.floor(math.log10(number))
    digit = math.ceil(number / 10.0**exponent * (1 - 1e-9))
    if digit == 10:
        digit, exponent = 1, exponent + 1
    return f"{digit}e{exponent:03d}" if exponent < 0 else f"{digit}e{exponent}"


def table(errors):
    """The table in markdown; `errors` in the order of CASES."""
    lines = [
        "| algorithm | authors' run | error | bound |",
        "|---|---|---|---|",
    ]
    for case, error in zip(CASES, errors, strict=True):
        cells = (
            f"`{case.algorithm}`",
            f"`{case.file}.npz`",
            in_words(error),
            in_words(case.bound),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([measure(case) for case in CASES]))
