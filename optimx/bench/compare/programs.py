"""Compiled runs: one by itself, and several as one program.

A run by itself is that of ``optimx train``, with the trainer's own functions. Several
are the same step under ``vmap``: each has its parameters, its optimizer's state, its
batches, and as numbers that the program is given its learning rate and weight decay.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimx.training import sections
from optimx.training.checkpoints.initial import initial_params
from optimx.training.config import Config
from optimx.training.data import Dataset
from optimx.training.evaluate import make_evaluate
from optimx.training.monitoring import optimizer_of
from optimx.training.network.attention import resolve_attention
from optimx.training.optimizer import Rule
from optimx.training.parallel.feed import Feed
from optimx.training.parallel.layout import placed, state_sharding
from optimx.training.parallel.mesh import make_mesh
from optimx.training.state import TrainState, abstract_state, init_state
from optimx.training.step import TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """What the trainer's loop needs to run one trial or several.

    Attributes:
      runs: how many it trains.
      step: compiled; donates the state.
      state: a fresh one at each call.
      inputs: of a step, by its number from 0.
      evaluate: validation loss, or an array of them.
      bytes: that the compiled step needs on a device.
    """

    runs: int
    step: TrainStep
    state: Callable[[], TrainState]
    inputs: Callable[[int], tuple[Any, Any]]
    evaluate: Callable[[Any], Any]
    bytes: int


def alone(config: Config, data: Dataset, mesh: jax.sharding.Mesh) -> Program:
    """The run as ``optimx train`` has it; used inside ``jax.set_mesh(mesh)``."""
    config = resolve_attention(config, jax.devices()[0].platform)
    tx = optimizer_of(config)
    shardings = state_sharding(config, tx, mesh)
    shapes = placed(abstract_state(config, tx), shardings)
    feed = Feed(config, data, mesh)
    step = make_train_step(config, tx, shardings)
    step = step.lower(shapes, *feed.inputs(0)).compile()

    def state() -> TrainState:
        params = initial_params(config, shardings.params)
        return init_state(config, tx, shardings, params)

    evaluate = make_evaluate(config, feed.validation())
    return Program(1, step, state, feed.inputs, evaluate, _bytes(step))


def together(configs: Sequence[Config], data: Dataset) -> Program:
    """Several runs as one program, on the first device.

    Args:
      configs: of the runs; they may differ in seed, learning rate and weight decay.
      data: that all of them learn.
    """
    platform = jax.devices()[0].platform
    configs = [resolve_attention(config, platform) for config in configs]
    first = configs[0]
    mesh = make_mesh(sections.Mesh(), jax.devices()[:1])
    feeds = {config.train.seed: Feed(config, data, mesh) for config in configs}
    numbers = jnp.asarray(
        [_numbers(config.optimizer.rule) for config in configs], jnp.float32
    )

    def one(numbers, state, tokens, upcoming):
        config = _with_numbers(first, numbers)
        step = make_train_step(config, optimizer_of(config))
        return step(state, tokens, upcoming)

    def inputs(index: int) -> tuple[Any, Any]:
        of_seed = {seed: feed.inputs(index) for seed, feed in feeds.items()}
        batches = [of_seed[config.train.seed] for config in configs]
        return jax.tree.map(lambda *one: jnp.stack(one), *batches)

    def state() -> TrainState:
        states = [
            init_state(config, optimizer_of(config), None, initial_params(config))
            for config in configs
        ]
        return jax.tree.map(lambda *one: jnp.stack(one), *states)

    shapes = jax.eval_shape(
        lambda one: jax.tree.map(lambda x: jnp.stack([x] * len(configs)), one),
        abstract_state(first, optimizer_of(first)),
    )
    # Numbers are arguments, so that other runs of as many have the same program.
    step = jax.jit(jax.vmap(one), donate_argnums=1)
    step = step.lower(numbers, shapes, *inputs(0)).compile()
    validation = feeds[first.train.seed].validation()
    evaluate = make_evaluate(first, validation, several=True)
    return Program(
        len(configs),
        functools.partial(step, numbers),
        state,
        inputs,
        evaluate,
        _bytes(step),
    )


def common(config: Config) -> Config:
    """What runs of one program have in common: two may share one if it is equal."""
    rule = config.optimizer.rule
    traced = {key: 1.0 for key in _traced(rule)}
    rule = dataclasses.replace(
        rule, learning_rate=1.0, hyperparameters=dict(rule.hyperparameters) | traced
    )
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, rule=rule),
        train=dataclasses.replace(config.train, seed=0),
    )


def _traced(rule: Rule) -> list[str]:
    """Hyperparameters that a program is given: no decay at all is another program."""
    decay = rule.hyperparameters.get("weight_decay")
    return ["weight_decay"] if isinstance(decay, (int, float)) and decay > 0 else []


def _numbers(rule: Rule) -> list[float]:
    return [rule.learning_rate, *(rule.hyperparameters[key] for key in _traced(rule))]


def _with_numbers(config: Config, numbers: jax.Array) -> Config:
    rule = config.optimizer.rule
    values = dict(zip(_traced(rule), numbers[1:], strict=True))
    rule = dataclasses.replace(
        rule,
        learning_rate=numbers[0],
        hyperparameters=dict(rule.hyperparameters) | values,
    )
    optimizer = dataclasses.replace(config.optimizer, rule=rule)
    return dataclasses.replace(config, optimizer=optimizer)


def state_bytes(config: Config) -> int:
    """Of the optimizer's state, stored gradients included; nothing is allocated."""
    state = abstract_state(config, optimizer_of(config))
    leaves = jax.tree.leaves((state.optimizer, state.stale_grads))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _bytes(compiled: Any) -> int:
    found = compiled.memory_analysis()
    return found.temp_size_in_bytes + found.argument_size_in_bytes


def memory() -> int:
    """Bytes that runs of one program may take: half of the device's memory."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
