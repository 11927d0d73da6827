"""Who is measured: the registry's optimizers by their recipes, and their peers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from optimx import registry
from optimx.training import catalogue
from optimx.training.errors import InputError, nearest
from optimx.training.optimizer import resolve_optimizer, transformation
from optimx.training.settings import Setting

ADAMW, AXPY = "optax.adamw", "axpy"
YARDSTICKS = (AXPY, ADAMW)
AT_ONCE = ":at-once"
CODED = tuple(state for state in registry.STATES if state != "float32")

_STEPS = 1000  # recipes that follow the length of a run need one


class Peer(NamedTuple):
    """An optimizer of Optax.

    Attributes:
      factory: the function that builds it.
      hyperparameters: its keyword arguments.
    """

    factory: Callable[..., optax.GradientTransformation]
    hyperparameters: Mapping[str, Any]


_USUAL = {"learning_rate": 1e-3, "weight_decay": 0.1}

PEERS = {
    AXPY: Peer(optax.sgd, {"learning_rate": 1e-3}),
    ADAMW: Peer(optax.adamw, _USUAL),
    "optax.lion": Peer(optax.lion, _USUAL),
    "optax.adafactor": Peer(optax.adafactor, {"learning_rate": 1e-3}),
    "optax.contrib.ademamix": Peer(optax.contrib.ademamix, _USUAL),
    "optax.contrib.muon": Peer(
        optax.contrib.muon,
        _USUAL | {"muon_weight_dimension_numbers": catalogue.block_matrices},
    ),
}

# A pass reads or writes the whole parameter tree once. Counted is what no
# implementation can avoid: every buffer of the state is read and written, the
# gradient read, the parameters read and written. A statistic that what follows
# depends on (a norm, sums over rows) costs one more read of what it is taken of;
# statistics of one reading share it, and factored state is too small to count.
PASSES = {
    AXPY: 3,  # reads p g, writes p
    ADAMW: 7,  # reads p g m v, writes p m v
    "optax.lion": 5,  # reads p g m, writes p m
    "optax.adafactor": 6,  # rows: g; rms of the step: g; rms of p: p; axpy: 3
    "optax.contrib.ademamix": 9,  # adamw's and the slow average
    "adamw": 7,
    "lion": 5,
    "mars_adamw": 11,  # norm: g old; reads p g m v old, writes p m v old
    "mars_adamw_exact": 10,  # norm: g stale; reads p g m v stale, writes p m v
    "mars_adamw_lean": 7,
    "mars_lion": 9,  # norm: g old; reads p g m old, writes p m old
    "ademamix": 9,
    "came": 8,  # rows: g; rms of the step: g; m and residual: 3; p from m: 3
    "mars_ademamix": 13,  # mars_adamw's and the slow average
    "mars_came": 12,  # came's, old read beside g in all three, and written
    "ademamix_came": 11,  # came's, the slow average read twice and written
}

# Here arithmetic takes the time, not memory: passes would say nothing.
PRODUCTS_DOMINATE = frozenset(
    {
        "optax.contrib.muon",
        "muon",
        "mars_m",
        "mars_shampoo",
        "shampoo",
        "soap",
        "mars_soap",
        "ademamix_soap",
        "ademamix_muon",
        "mars_ademamix_muon",
    }
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer that is ready to be measured.

    Attributes:
      name: in the registry, or in ``PEERS``.
      tx: the transformation.
      needs: extra keyword arguments of its ``update``.
      update_every: updates between two refreshes; None where all updates are alike.
    """

    name: str
    tx: optax.GradientTransformationExtraArgs
    needs: tuple[str, ...] = ()
    update_every: int | None = None

    @property
    def passes(self) -> int | None:
        """Leaf passes of one update; None where they are not what takes the time."""
        return PASSES.get(self.name)


def names() -> tuple[str, ...]:
    """All that can be measured: peers first, then the registry.

    An optimizer whose matrices take turns at refreshing has a second name, under which
    all of them are refreshed at once; every one has a name for each form of state.
    """
    ours = []
    for name in registry.names():
        ours.append(name)
        if "spread" in registry.hyperparameters(name):
            ours.append(name + AT_ONCE)
    coded = [f"{name}:{state}" for name in registry.names() for state in CODED]
    return (*PEERS, *ours, *coded)


def chosen(only: tuple[str, ...]) -> tuple[str, ...]:
    """The names to measure beside the yardsticks; all of them where none are given.

    Raises:
      InputError: a name that is not known; the nearest is offered.
    """
    for name in only:
        if name not in names():
            hint = nearest(name, names())
            raise InputError(f"--only {name!r}: no such optimizer{hint}")
    wanted = dict.fromkeys(only or (*PEERS, *registry.names()))
    return tuple(name for name in wanted if name not in YARDSTICKS)


def contender(name: str) -> Contender:
    """Builds a peer, or an optimizer of the registry by its recipe.

    Args:
      name: one of :func:`names`.
    """
    if name in PEERS:
        tx = PEERS[name].factory(**PEERS[name].hyperparameters)
        return Contender(name, optax.with_extra_args_support(tx))
    own, _, form = name.partition(":")
    given = {"name": Setting(own, "bench")}
    if form in CODED:
        given["state"] = Setting(form, "bench")
    rule = resolve_optimizer(given, _STEPS).rule
    hyper = dict(rule.hyperparameters)
    if "labels" in registry.hyperparameters(own):
        hyper["labels"] = catalogue.labels
    if name.endswith(AT_ONCE):
        hyper["spread"] = False
    rule = dataclasses.replace(rule, hyperparameters=hyper)
    return Contender(
        name,
        optax.with_extra_args_support(transformation(rule, rule.learning_rate)),
        registry.get(own).needs,
        rule.hyperparameters.get("update_every"),
    )
