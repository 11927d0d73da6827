"""What one update costs: ``python -m optimx bench update``.

One compiled step updates the state and applies the updates, in place. Optimizers
take turns in one process; before and after each, the same two yardsticks are timed
(Optax's AdamW and p <- p - a g), and ratios are to their median around it, so that
a machine that is busy with other things slows both.
"""

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.experimental.compilation_cache import compilation_cache

from optimx.bench.contenders import (
    ADAMW,
    AXPY,
    PASSES,
    YARDSTICKS,
    Contender,
    chosen,
    contender,
)
from optimx.bench.report import Report, Row
from optimx.bench.request import Request, parameter_shapes
from optimx.typing import PyTree


def measure(request: Request, notice: Callable[[Row], None] | None = None) -> Report:
    """Measures the optimizers that were asked for.

    Args:
      request: which, and on what.
      notice: called with every row as it is found.
    """
    shapes = parameter_shapes(request)
    rows = measure_updates(
        [contender(name) for name in chosen(request.only)],
        shapes,
        steps=request.steps,
        cycle=request.cycle,
        notice=notice,
    )
    about = {
        "preset": request.preset,
        "matrices_only": request.matrices_only,
        "parameters": _count(shapes),
        "dtype": request.dtype,
        "steps": request.steps,
        "cycle": request.cycle,
        "device": device_name(),
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }
    return Report(about, rows)


def measure_updates(
    contenders: Sequence[Contender],
    shapes: PyTree,
    *,
    steps: int,
    cycle: bool = False,
    notice: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Measures optimizers on a tree; the yardsticks' rows come first.

    Args:
      contenders: the optimizers, without the yardsticks.
      shapes: the parameters, as ``jax.ShapeDtypeStruct`` leaves.
      steps: timed steps of each.
      cycle: see :class:`Request`.
      notice: called with every row as it is found, the yardsticks' last.
    """
    notice = notice or (lambda row: None)
    with _nothing_cached():
        start, grads = _numbers(shapes, seed=0), _numbers(shapes, seed=1)
        yardsticks = {
            name: _Subject(contender(name), start, grads) for name in YARDSTICKS
        }

        def read_yardsticks() -> dict[str, list[float]]:
            return {n: subject.time(1, steps) for n, subject in yardsticks.items()}

        readings, rows = [read_yardsticks()], []
        for one in contenders:
            warm_up, timed = _lengths(one, steps, cycle)
            subject = _Subject(one, start, grads)
            seconds = subject.time(warm_up, timed)
            subject.release()
            readings.append(read_yardsticks())
            rows.append(_row(subject, seconds, warm_up, readings[-2:]))
            notice(rows[-1])
        standards = [
            _row(subject, [s for r in readings for s in r[name]], 1, readings)
            for name, subject in yardsticks.items()
        ]
    for row in standards:
        notice(row)
    return [*standards, *rows]


class _Subject:
    """An optimizer's compiled step, and what it works on."""

    def __init__(self, one: Contender, start: PyTree, grads: PyTree):
        def step(params, state, grads, extra):
            updates, state = one.tx.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        self.contender = one
        # Stale gradients are numbers like any others; nothing writes to these.
        self.inputs = grads, dict.fromkeys(one.needs, start)
        self.params = jax.tree.map(jnp.copy, start)
        self.state = jax.jit(one.tx.init)(self.params)
        self.parameters = _count(start)
        self.state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        # Else functions that another optimizer traced would come for nothing.
        jax.clear_caches()
        began = time.perf_counter()
        # Donated inputs meet results in order: what comes first returns first.
        jitted = jax.jit(step, donate_argnums=(0, 1))
        self.step = jitted.lower(self.params, self.state, *self.inputs).compile()
        self.compile_seconds = time.perf_counter() - began
        self.temporary_bytes = self.step.memory_analysis().temp_size_in_bytes

    def time(self, warm_up: int, steps: int) -> list[float]:
        """Seconds of each step after the first ``warm_up``."""
        return [self._advance() for _ in range(warm_up + steps)][warm_up:]

    def release(self) -> None:
        """Frees parameters and state: two of the largest would fill a machine."""
        self.params = self.state = None

    def _advance(self) -> float:
        began = time.perf_counter()
        self.params, self.state = self.step(self.params, self.state, *self.inputs)
        jax.block_until_ready((self.params, self.state))
        return time.perf_counter() - began


def _lengths(one: Contender, steps: int, cycle: bool) -> tuple[int, int]:
    """Steps to warm up, and steps to time."""
    if cycle and one.update_every is not None:
        return one.update_every, max(steps, 2 * one.update_every)
    return 1, steps


def _row(
    subject: _Subject,
    seconds: Sequence[float],
    warm_up: int,
    readings: Sequence[dict[str, list[float]]],
) -> Row:
    around = {
        name: statistics.median(s for reading in readings for s in reading[name])
        for name in YARDSTICKS
    }
    return Row(
        name=subject.contender.name,
        passes=subject.contender.passes,
        seconds=seconds,
        adamw_median=around[ADAMW],
        axpy_median=around[AXPY],
        adamw_passes=PASSES[ADAMW],
        axpy_passes=PASSES[AXPY],
        state_bytes_per_parameter=subject.state_bytes / subject.parameters,
        temporary_bytes=subject.temporary_bytes,
        temporary_bytes_per_parameter=subject.temporary_bytes / subject.parameters,
        compile_seconds=subject.compile_seconds,
        warm_up_steps=warm_up,
        update_every=subject.contender.update_every,
    )


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """Compiles anew what an earlier process has compiled and kept."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        # JAX asks only once in a process whether there is a cache.
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _numbers(shapes: PyTree, seed: int) -> PyTree:
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    )


def _count(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def device_name() -> str:
    """What people call the first device, or the processor."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
