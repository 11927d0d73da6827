"""What ``[optimizer]`` can name: the registry's optimizers, and Optax's own.

Optax's stand beside ours as yardsticks. They are no part of the registry: nobody
should find them under our names, and they promise less than the registry's contract.
"""

import functools
import inspect
from typing import Any

import jax
import optax

from optimx import registry
from optimx.partition import MATRIX, by_path
from optimx.registry import Entry

# Nobody orthogonalizes a vocabulary: what treats matrices apart gets those of the
# blocks, ours and Optax's alike.
labels = by_path(("wte/*", "wpe/*"))


def block_matrices(params: optax.Params) -> Any:
    """For Optax's Muon: dimension numbers of the blocks' matrices, None elsewhere."""
    as_it_is = optax.contrib.MuonDimensionNumbers()
    return jax.tree.map(
        lambda label: as_it_is if label == MATRIX else None, labels(params)
    )


_USUAL = {"learning_rate": 3e-3, "b2": 0.95, "weight_decay": 0.1}
_MUON = {"learning_rate": 2e-2, "weight_decay": 0.1, "adam_weight_decay": 0.1}

PEERS = {
    entry.name: entry
    for entry in (
        Entry("optax.adamw", optax.adamw, "Optax's AdamW", recipe=_USUAL),
        Entry(
            "optax.lion",
            optax.lion,
            "Optax's Lion",
            recipe={"learning_rate": 1e-3, "weight_decay": 0.5},
        ),
        Entry(
            "optax.contrib.ademamix",
            optax.contrib.ademamix,
            "Optax's AdEMAMix, without ramps",
            recipe={"learning_rate": 1e-3, "b3": "horizon", "weight_decay": 0.1},
        ),
        Entry(
            "optax.contrib.muon",
            functools.partial(
                optax.contrib.muon, muon_weight_dimension_numbers=block_matrices
            ),
            "Optax's Muon; AdamW for what is no matrix of a block",
            recipe=_MUON,
        ),
    )
}

# Functions and trees; and a rate of its own would know nothing of the schedule.
_NOT_IN_TOML = (
    "mask",
    "weight_decay_mask",
    "muon_weight_dimension_numbers",
    "adam_learning_rate",
)


def names() -> tuple[str, ...]:
    """The registry's names, then those of Optax's optimizers."""
    return (*registry.names(), *PEERS)


def get(name: str) -> Entry:
    """The entry of an optimizer, as of the registry's."""
    return PEERS[name] if name in PEERS else registry.get(name)


def hyperparameters(name: str) -> dict[str, Any]:
    """The hyperparameters and their defaults, as of the registry's."""
    if name not in PEERS:
        return registry.hyperparameters(name)
    parameters = inspect.signature(PEERS[name].factory).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name not in _NOT_IN_TOML
    }


def build(name: str, **hyper: Any) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer by its name, as the registry does."""
    if name not in PEERS:
        return registry.build(name, **hyper)
    return optax.with_extra_args_support(PEERS[name].factory(**hyper))
