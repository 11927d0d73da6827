"""What a monitor costs: ``python -m optimx.bench.monitor_cost``.

Three compiled updates of one optimizer take turns: without a monitor; with one that
is not due; with one that measures each time. Counted are the processor's seconds, of
all threads, so that a machine that is busy with other things disturbs little.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from optimx.bench.contenders import Contender, contender
from optimx.monitor import monitored
from optimx.training.network import model
from optimx.training.resolve import resolve_model
from optimx.training.sections import Model
from optimx.typing import PyTree

EVERY = 500  # The default of `monitored`.
_NEVER = 10**9
_WARM_UP = 3  # After the third update, which is measured in any case.


@dataclasses.dataclass(frozen=True)
class Cost:
    """Processor seconds of an update, medians.

    Attributes:
      plain: without a monitor.
      idle: with one, between measurements.
      measuring: with a measurement.
    """

    plain: float
    idle: float
    measuring: float

    def share(self, every: int) -> float:
        """What monitoring adds, relative to the update."""
        extra = self.idle - self.plain + (self.measuring - self.idle) / every
        return extra / self.plain


def measure(one: Contender, shapes: PyTree, rounds: int) -> Cost:
    """Measures one optimizer.

    Args:
      one: the optimizer.
      shapes: of the parameters.
      rounds: updates of each of the three that are timed.
    """
    subjects = [
        _Subject(one, tx, shapes)
        for tx in (
            one.tx,
            monitored(one.tx, every=_NEVER, needs=one.needs),
            monitored(one.tx, every=1, needs=one.needs),
        )
    ]
    for _ in range(_WARM_UP):
        for subject in subjects:
            subject.seconds()
    turns = [[subject.seconds() for subject in subjects] for _ in range(rounds)]
    return Cost(*(statistics.median(column) for column in zip(*turns, strict=True)))


class _Subject:
    """A compiled update and what it works on."""

    def __init__(self, one: Contender, tx, shapes: PyTree):
        tx = optax.with_extra_args_support(tx)

        def step(params, state, grads, extra):
            updates, state = tx.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes)))
        leaves, treedef = jax.tree.flatten(shapes)
        self._params = treedef.unflatten(
            0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        )
        grads = jax.tree.map(lambda p: 0.1 * p, self._params)
        self._inputs = grads, dict.fromkeys(one.needs, grads)
        self._state = jax.jit(tx.init)(self._params)
        step = jax.jit(step, donate_argnums=(0, 1))
        self._step = step.lower(self._params, self._state, *self._inputs).compile()

    def seconds(self) -> float:
        """Of the processor, for the next update."""
        began = time.process_time()
        self._params, self._state = self._step(self._params, self._state, *self._inputs)
        jax.block_until_ready((self._params, self._state))
        return time.process_time() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the three times and the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="mars_adamw,ademamix,came,muon,soap")
    parser.add_argument("--layers", type=int, default=2, help="of GPT-2 small")
    parser.add_argument("--rounds", type=int, default=9, help="timed updates of each")
    options = parser.parse_args(arguments)
    sizes = Model(preset="small", layers=options.layers, vocab=8192)
    shapes = model.parameter_shapes(resolve_model(sizes))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), shapes)
    print(f"{'':20}   plain      idle  measuring   share of an update, measured every")
    print(f"{'optimizer':20}      ms        ms         ms      {EVERY}       100")
    for name in options.only.split(","):
        cost = measure(contender(name), shapes, options.rounds)
        times = (cost.plain, cost.idle, cost.measuring)
        shares = (cost.share(EVERY), cost.share(100))
        print(
            f"{name:20}"
            + "".join(f"{1e3 * seconds:9.1f} " for seconds in times)
            + "".join(f"{share:9.2%}" for share in shares),
            flush=True,
        )


if __name__ == "__main__":
    main()
