"""What docs/migrating.md says of other libraries, held to them."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimx
from tests import runs

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "migrating.md").read_text()
STEPS = 6


def draw():
    random = np.random.default_rng(0)
    shapes = {"up": (6, 4), "down": (4, 9), "bias": (5,)}
    params = {k: random.normal(size=shape) for k, shape in shapes.items()}
    gradients = {k: random.normal(size=(STEPS, *s)) for k, s in shapes.items()}
    return params, gradients


def path(tx):
    # Optax's arithmetic promotes its counters.
    with runs.double_precision(), jax.numpy_dtype_promotion("standard"):
        return runs.trajectory(tx, *draw(), jnp.float64)


def same(one, other, leaves=("up", "down", "bias"), bound=1e-10):
    for leaf in leaves:
        np.testing.assert_allclose(one[leaf], other[leaf], rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_yardsticks_have_the_names_and_defaults_of_optax(name):
    ours, theirs = (
        inspect.signature(getattr(library, name)).parameters
        for library in (optimx, optax)
    )
    for argument in set(ours) - {"learning_rate", "accumulator_dtype"}:
        assert ours[argument].default == theirs[argument].default
    # Defaults and all, weight decay included.
    same(*(path(getattr(library, name)(0.1)) for library in (optimx, optax)))


def named(heading):
    """Names in the first column of the table under a heading."""
    text = re.split(r"^#+ ", PAGE, flags=re.M)
    (found,) = [part for part in text if part.startswith(f"{heading}\n")]
    rows = found.split("|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    return {name for row in rows for name in re.findall(r"`(\w+)", row.split(" | ")[0])}


def test_every_argument_of_optax_muon_is_mapped():
    arguments = set(inspect.signature(optax.contrib.muon).parameters)
    # Adam's own epsilon is Muon's; the root of the second moment has none here.
    assert arguments - named("Muon") <= {"adam_eps_root"}
    assert named("Muon") <= arguments


def test_a_consistent_rms_without_nesterov_is_that_of_mars_m():
    hyper = {"nesterov": False, "consistent_rms": 0.2, "weight_decay": 0.1, "eps": 1e-7}
    theirs = path(optax.contrib.muon(0.1, beta=0.9, **hyper))
    ours = path(
        optimx.mars_m(0.1, b1=0.9, gamma=0.0, max_norm=np.inf, weight_decay=0.1)
    )
    # The 1e-7 in the norm is of the debiased average there, of the average here.
    same(ours, theirs, ["up", "down"], bound=1e-6)


def test_muons_rest_is_nadam_in_optax():
    theirs = optax.contrib.muon(0.1, adam_learning_rate=0.02, adam_b2=0.95, eps=1e-8)
    rest = optax.nadamw(0.02, b2=0.95, weight_decay=0.0)
    same(path(optimx.muon(0.1, otherwise=rest)), path(theirs), ["bias"])


def levanter(params, gradients, rate, b1, b2, gamma, eps, max_norm, decay, decays):
    """MARS as Levanter has it: the whole corrected gradient has one norm."""
    x = {k: v.copy() for k, v in params.items()}
    m, v, before = ({k: 0.0 * value for k, value in x.items()} for _ in range(3))
    steps = {k: [] for k in x}
    for t in range(1, STEPS + 1):
        g = {k: value[t - 1] for k, value in gradients.items()}
        c = {k: g[k] + gamma * b1 / (1 - b1) * (g[k] - before[k]) for k in g}
        norm = np.sqrt(sum(np.sum(value**2) for value in c.values()))
        scale = min(1.0, max_norm / (norm + 1e-6))
        for k in x:
            m[k] = b1 * m[k] + (1 - b1) * scale * c[k]
            v[k] = b2 * v[k] + (1 - b2) * (scale * c[k]) ** 2
            root = np.sqrt(v[k] / (1 - b2**t)) + eps
            x[k] = x[k] - rate * (m[k] / (1 - b1**t) / root + decay * decays[k] * x[k])
            steps[k].append(x[k])
        before = g
    return {k: np.stack(value) for k, value in steps.items()}


def test_levanters_mars_is_a_sentence_with_a_global_clip():
    decays = {"up": True, "down": True, "bias": False}
    expected = levanter(*draw(), 0.1, 0.95, 0.99, 0.025, 1e-8, 1.0, 0.1, decays)
    tx = optimx.stages(
        correct=optimx.add_gradient_difference(0.025 * 0.95 / (1 - 0.95)),
        clip=optax.clip_by_global_norm(1.0),
        adamw=optimx.adamw(0.1, b1=0.95, b2=0.99, weight_decay=0.1, mask=decays),
    )
    # Theirs adds 1e-6 to a norm of about ten, and Adam's step knows no scale.
    same(path(tx), expected, bound=1e-6)
