"""Names for optimizers: what configurations and command lines say.

Code composes by value; strings live here and in configuration files only.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from optimx import codecs as _codecs
from optimx.optimizers import adamw as _adamw
from optimx.optimizers import ademamix as _ademamix
from optimx.optimizers import came as _came
from optimx.optimizers import crossings as _crossings
from optimx.optimizers import lion as _lion
from optimx.optimizers import mars as _mars
from optimx.optimizers import mars_lean as _mars_lean
from optimx.optimizers.matrices import mars as _matrix_mars
from optimx.optimizers.matrices import muon as _muon
from optimx.optimizers.matrices import muon_crossings as _muon_crossings
from optimx.optimizers.matrices import shampoo as _shampoo
from optimx.optimizers.matrices import soap as _soap
from optimx.optimizers.matrices import soap_crossings as _soap_crossings
from optimx.wrappers.quantize import quantized as _quantized

STATES = ("float32", *_codecs.NAMED)
"""How the state may be kept between steps, as ``build(..., state=)`` takes it."""

_MEMORY = {"b3": "horizon", "b3_warmup": "run", "alpha_warmup": "run"}


class Entry(NamedTuple):
    """One registered optimizer.

    Attributes:
      name: what configurations call it.
      factory: the function that builds it; the first argument is the learning rate.
      summary: one line of text.
      needs: extra keyword arguments that its ``update`` requires.
      recipe: hyperparameters to start a short run of a small model with. The trainer
        reads ``b3 = "horizon"`` as ``horizon(steps)``, and ``b3_warmup`` and
        ``alpha_warmup`` (a number of updates, or ``"run"``) as AdEMAMix's ramps.
    """

    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    summary: str
    needs: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = {}


_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "adamw",
            _adamw.adamw,
            "AdamW, the yardstick",
            recipe={"learning_rate": 3e-3, "b2": 0.95, "weight_decay": 0.1},
        ),
        Entry(
            "lion",
            _lion.lion,
            "Lion: the sign of an interpolated momentum",
            recipe={"learning_rate": 1e-3, "weight_decay": 0.5},
        ),
        Entry(
            "mars_adamw",
            _mars.mars_adamw,
            "MARS-AdamW: AdamW on variance-reduced gradients",
            recipe={"learning_rate": 6e-3, "weight_decay": 0.01},
        ),
        Entry(
            "mars_adamw_exact",
            _mars.mars_adamw_exact,
            "exact MARS-AdamW: both gradients of the difference on one batch",
            needs=("stale_grads",),
            recipe={"learning_rate": 6e-3, "weight_decay": 0.01},
        ),
        Entry(
            "mars_adamw_lean",
            _mars_lean.mars_adamw_lean,
            "MARS-AdamW without clip and stored gradient: the state of AdamW",
            recipe={"learning_rate": 6e-3, "weight_decay": 0.01},
        ),
        Entry(
            "mars_lion",
            _mars.mars_lion,
            "MARS-Lion: the sign of an average of variance-reduced gradients",
            recipe={"learning_rate": 3e-4, "weight_decay": 0.5},
        ),
        Entry(
            "ademamix",
            _ademamix.ademamix,
            "AdEMAMix: a fast and a very slow average over Adam's denominator",
            recipe={"learning_rate": 1e-3, "weight_decay": 0.1} | _MEMORY,
        ),
        Entry(
            "came",
            _came.came,
            "CAME: a factored second moment, guided by confidence",
            recipe={"learning_rate": 1e-3, "b3": 0.999, "weight_decay": 0.01},
        ),
        Entry(
            "mars_ademamix",
            _crossings.mars_ademamix,
            "MARS before AdEMAMix",
            recipe={"learning_rate": 1.5e-3, "weight_decay": 0.01} | _MEMORY,
        ),
        Entry(
            "mars_came",
            _crossings.mars_came,
            "MARS before CAME",
            recipe={"learning_rate": 1.5e-3, "weight_decay": 0.01},
        ),
        Entry(
            "ademamix_came",
            _crossings.ademamix_came,
            "CAME with AdEMAMix's two memories",
            recipe={
                "learning_rate": 5e-4,
                "confidence_decay": 0.999,
                "weight_decay": 0.01,
            }
            | _MEMORY,
        ),
        Entry(
            "mars_shampoo",
            _matrix_mars.mars_shampoo,
            "MARS-Shampoo as published: orthogonalized, variance-reduced momentum",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.01},
        ),
        Entry(
            "mars_m",
            _matrix_mars.mars_m,
            "MARS-M: the same with the size of an AdamW step",
            recipe={"learning_rate": 6e-3, "weight_decay": 0.01},
        ),
        Entry(
            "muon",
            _muon.muon,
            "Muon: orthogonalized Nesterov momentum",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.1},
        ),
        Entry(
            "shampoo",
            _shampoo.shampoo,
            "Shampoo with the norm of Adam",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.1},
        ),
        Entry(
            "soap",
            _soap.soap,
            "SOAP: Adam in Shampoo's eigenbasis",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.1},
        ),
        Entry(
            "mars_soap",
            _soap_crossings.mars_soap,
            "MARS before SOAP",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.01},
        ),
        Entry(
            "ademamix_soap",
            _soap_crossings.ademamix_soap,
            "SOAP with AdEMAMix's two memories",
            recipe={"learning_rate": 1e-3, "weight_decay": 0.1} | _MEMORY,
        ),
        Entry(
            "ademamix_muon",
            _muon_crossings.ademamix_muon,
            "Muon with AdEMAMix's two memories",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.1} | _MEMORY,
        ),
        Entry(
            "mars_ademamix_muon",
            _muon_crossings.mars_ademamix_muon,
            "MARS before AdEMAMix before Muon",
            recipe={"learning_rate": 3e-3, "weight_decay": 0.01} | _MEMORY,
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names of all registered optimizers, in the order of the documentation.

    Examples:
      >>> import optimx
      >>> 'mars_adamw' in optimx.registry.names()
      True
    """
    return tuple(_ENTRIES)


def get(name: str) -> Entry:
    """The entry of a registered optimizer.

    Raises:
      ValueError: where there is no such optimizer; the nearest name is offered.
    """
    if name not in _ENTRIES:
        raise ValueError(
            f"unknown optimizer {name!r}{_nearest(name, _ENTRIES)}; "
            f"there are {', '.join(_ENTRIES)}."
        )
    return _ENTRIES[name]


def hyperparameters(name: str) -> dict[str, Any]:
    """The hyperparameters of an optimizer and their defaults, but the learning rate.

    Examples:
      >>> import optimx
      >>> optimx.registry.hyperparameters('lion')['b2']
      0.99
    """
    parameters = inspect.signature(get(name).factory).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def build(
    name: str, *, state: str = "float32", **hyperparameters_: Any
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer by its name.

    Args:
      name: a registered name.
      state: how the moments are kept between steps: one of ``STATES``. ``"int8"``,
        ``"float8"`` and ``"bfloat16"`` are :func:`optimx.quantized` with the codec of
        that name, as it is by default.
      **hyperparameters_: ``learning_rate`` and any other of its hyperparameters.

    Returns:
      The optimizer.

    Raises:
      ValueError: where the name, a hyperparameter or the state is unknown (the
        nearest is offered), the learning rate missing, a value out of range, or both
        ``state`` and ``accumulator_dtype`` say how the state is kept.

    Examples:
      >>> import optimx
      >>> tx = optimx.registry.build('mars_adamw', learning_rate=6e-3, gamma=0.05)
      >>> lean = optimx.registry.build('lion', learning_rate=1e-3, state='int8')
    """
    factory = get(name).factory
    known = ["learning_rate", *hyperparameters(name)]
    for key in hyperparameters_:
        if key not in known:
            raise ValueError(
                f"{name}: unknown hyperparameter {key!r}{_nearest(key, known)}; "
                f"there are {', '.join(known)}."
            )
    if "learning_rate" not in hyperparameters_:
        raise ValueError(f"{name}: learning_rate is missing.")
    if state not in STATES:
        raise ValueError(
            f"{name}: state must be one of {', '.join(STATES)}, got {state!r}"
            f"{_nearest(str(state), STATES)}."
        )
    tx = factory(**hyperparameters_)
    if state == "float32":
        return tx
    if hyperparameters_.get("accumulator_dtype") is not None:
        raise ValueError(
            f"{name}: state={state!r} codes float32 averages; leave out "
            "accumulator_dtype."
        )
    return _quantized(tx, _codecs.NAMED[state]())


def _nearest(name: str, known) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
