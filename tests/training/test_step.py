import dataclasses
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimx.training.network import model
from optimx.training.network.model import mean_loss
from optimx.training.optimizer import build_optimizer, learning_rate_schedule
from optimx.training.state import init_state
from optimx.training.step import clip_by_global_norm, make_train_step
from training import small
from training.small import config


def start(chosen):
    tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
    return tx, init_state(chosen, tx)


def tokens(chosen, steps=3):
    shape = (steps, *chosen.batch_shape, chosen.data.context + 1)
    drawn = np.random.default_rng(0).integers(0, chosen.model.vocab, shape)
    return drawn.astype(np.int32)


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def loss_of(chosen):
    def loss(params, batch):
        logits = model.apply(chosen.model, params, batch[:, :-1])
        chances = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(chances, batch[:, 1:, None], axis=-1).mean()

    return loss


def test_the_loss_is_the_mean_over_tokens_of_what_follows(corpus):
    chosen = config(corpus)
    params = model.init(chosen.model, 0)
    batch = tokens(chosen)[0, 0]
    mine = jax.jit(mean_loss, static_argnums=(0, 3))(
        chosen.model, params, batch, "float32"
    )
    np.testing.assert_allclose(mine, jax.jit(loss_of(chosen))(params, batch), rtol=1e-6)


def test_a_step_is_gradient_clip_and_update(corpus):
    chosen = config(corpus, train__clip_norm=0.5)
    tx, state = start(chosen)
    # The first step of the schedule has no learning rate; start at the third.
    state = dataclasses.replace(state, step=jnp.asarray(2, jnp.int32))
    batches = tokens(chosen)
    loss, grads = jax.jit(jax.value_and_grad(loss_of(chosen)))(
        state.params, batches[0, 0]
    )
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    assert norm > 0.5
    clipped = jax.tree.map(lambda g: g * (0.5 / norm), grads)
    updates, after = tx.update(clipped, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)

    new, metrics = make_train_step(chosen, tx)(state, batches[0], None)
    # Sums in another order: a few ulps of gradients that are at most 0.5.
    close(new.params, params, atol=2e-6)
    close(new.optimizer, after, atol=2e-6)
    assert int(new.step) == 3
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    rate = learning_rate_schedule(
        chosen.schedule, chosen.optimizer.rule.learning_rate, chosen.train.steps
    )
    np.testing.assert_allclose(metrics["learning_rate"], rate(2))


def test_accumulation_equals_the_whole_batch(corpus):
    whole = config(corpus, train__batch_size=6, optimizer__name="adamw")
    parts = config(
        corpus,
        train__batch_size=2,
        train__accumulation=3,
        optimizer__name="adamw",
        # Adam divides by the size of the gradient: with its usual eps, a gradient
        # that is all rounding would move parameters as much as any other.
        optimizer__eps=1e-3,
    )
    whole = dataclasses.replace(whole, optimizer=parts.optimizer)
    batches = tokens(whole)
    results = []
    for chosen in (whole, parts):
        tx, state = start(chosen)
        step = make_train_step(chosen, tx)
        for batch in batches:
            shape = (*chosen.batch_shape, chosen.data.context + 1)
            state, metrics = step(state, batch.reshape(shape), None)
        results.append((state.params, metrics))
    (params, metrics), (params_, metrics_) = results
    close(params, params_, atol=1e-6)
    close(metrics, metrics_, rtol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_exact_mars_sees_the_gradient_at_the_parameters_before(corpus, accumulation):
    chosen = config(
        corpus,
        optimizer__name="mars_adamw_exact",
        train__accumulation=accumulation,
        train__clip_norm=0.5,
    )
    tx, state = start(chosen)
    batches = tokens(chosen, steps=5)
    gradient = jax.jit(jax.grad(loss_of(chosen)))

    def clipped(params, batch):
        sequences = batch.reshape(-1, batch.shape[-1])
        return optax.clip_by_global_norm(0.5).update(gradient(params, sequences), None)[
            0
        ]

    params, optimizer = state.params, state.optimizer
    stale = jax.tree.map(jnp.zeros_like, params)
    expected = []
    for batch, following in itertools.pairwise(batches):
        updates, optimizer = tx.update(
            clipped(params, batch), optimizer, params, stale_grads=stale
        )
        stale = clipped(params, following)
        params = optax.apply_updates(params, updates)
        expected.append(params)
    step = make_train_step(chosen, tx)
    _, state = start(chosen)
    for i in range(4):
        state, _ = step(state, batches[i], batches[i + 1])
        # Adam's division amplifies the rounding of small gradients.
        close(state.params, expected[i], atol=2e-4)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), expected[-1], expected[0]
    )
    assert min(jax.tree.leaves(moved)) > 4e-3


@pytest.mark.parametrize(
    "name", ["adamw", "mars_adamw", "mars_adamw_exact", "ademamix", "came"]
)
def test_the_state_is_updated_in_place(corpus, name):
    chosen = config(corpus, optimizer__name=name)
    tx, state = start(chosen)
    before = jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), state)
    batches = tokens(chosen)
    following = batches[1] if chosen.optimizer.needs else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of a donation that is no use
        step = make_train_step(chosen, tx).lower(state, batches[0], following)
        step = step.compile()
        after, _ = step(state, batches[0], following)
    assert before == jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), after)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(after))
    assert step.memory_analysis().alias_size_in_bytes == size
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def with_start(batch, tokens):
    """The batch with a first sequence that begins so, in its last micro-batch."""
    batch = batch.copy()
    batch[-1, 0, : len(tokens)] = tokens
    return batch


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def copied(tree):
    return jax.tree.map(np.array, tree)


def test_an_update_that_is_not_finite_is_skipped(corpus, faults):
    chosen = config(corpus, optimizer__name="ademamix", train__accumulation=2)
    tx, state = start(chosen)
    step = make_train_step(chosen, tx)
    good = tokens(chosen)
    bad = [with_start(good[2], small.BAD_LOSS), with_start(good[2], small.BAD_GRAD)]
    seen = []
    for batch in (good[0], *bad, good[1]):
        before = copied(state)
        state, metrics = step(state, batch, None)
        seen.append({name: float(value) for name, value in metrics.items()})
        if any(batch is b for b in bad):
            same(state.params, before.params)
            same(state.optimizer, before.optimizer)
    assert [line["skipped"] for line in seen] == [0, 1, 2, 2]
    assert [line["skipped_in_row"] for line in seen] == [0, 1, 2, 0]
    assert [np.isfinite(line["loss"]) for line in seen] == [True, False, True, True]
    assert [np.isfinite(line["grad_norm"]) for line in seen] == [1, 0, 0, 1]
    assert int(state.step) == 4
    # As if the bad batches had not been there, learning rates included.
    _, other = start(chosen)
    for batch, line in zip(good[:2], (seen[0], seen[3]), strict=True):
        other, metrics = step(other, batch, None)
        assert float(metrics["learning_rate"]) == line["learning_rate"]
    same(state.params, other.params)
    same(state.optimizer, other.optimizer)


def test_exact_mars_goes_on_after_a_skipped_update(corpus, faults):
    """Parameters have not moved, so there is no difference to correct by."""
    chosen = config(corpus, optimizer__name="mars_adamw_exact", train__clip_norm=0.5)
    tx, state = start(chosen)
    step = make_train_step(chosen, tx)
    good = tokens(chosen)
    bad = with_start(good[2], small.BAD_LOSS)
    state, _ = step(state, good[0], bad)
    state, metrics = step(state, bad, good[1])
    assert int(metrics["skipped_in_row"]) == 1
    before = copied(state)
    state, metrics = step(state, good[1], good[2])
    assert int(metrics["skipped_in_row"]) == 0
    grads = jax.jit(jax.grad(loss_of(chosen)))(before.params, good[1][0])
    grads, _ = clip_by_global_norm(grads, 0.5)
    updates, _ = tx.update(grads, before.optimizer, before.params, stale_grads=grads)
    close(state.params, optax.apply_updates(before.params, updates), atol=2e-4)


def test_a_stale_gradient_that_is_not_finite_is_never_used(corpus, faults):
    chosen = config(corpus, optimizer__name="mars_adamw_exact")
    tx, state = start(chosen)
    step = make_train_step(chosen, tx)
    good = tokens(chosen)
    state, _ = step(state, good[0], with_start(good[1], small.BAD_LOSS))
    before = copied(state)
    state, metrics = step(state, good[1], good[2])
    assert np.isfinite(float(metrics["loss"]))
    assert int(metrics["skipped_in_row"]) == 1
    same(state.params, before.params)
    state, metrics = step(state, good[2], good[0])
    assert int(metrics["skipped_in_row"]) == 0


def test_the_guard_needs_no_copy_of_the_state(corpus, monkeypatch):
    chosen = config(
        corpus,
        optimizer__name="ademamix",
        model__width=128,
        data__context=4,
        train__batch_size=1,
    )
    batch = tokens(chosen)[0]

    def temporaries():
        tx, state = start(chosen)
        step = make_train_step(chosen, tx).lower(state, batch, None).compile()
        largest = max(leaf.nbytes for leaf in jax.tree.leaves(state.params))
        return step.memory_analysis().temp_size_in_bytes, largest

    guarded, largest = temporaries()
    monkeypatch.setattr(
        "optimx.training.step._apply_if", lambda condition, update, state: update(state)
    )
    bare, _ = temporaries()
    assert guarded <= bare + 1.5 * largest


def test_clipping_by_global_norm():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    halved, norm = clip_by_global_norm(grads, 2.5)
    assert float(norm) == 5.0
    close(halved, jax.tree.map(lambda g: g / 2, grads), rtol=1e-6)
    for max_norm in (0.0, 5.0, 100.0):
        same, _ = clip_by_global_norm(grads, max_norm)
        close(same, grads, rtol=0)
    zeros, norm = clip_by_global_norm(jax.tree.map(jnp.zeros_like, grads), 1.0)
    assert float(norm) == 0.0
    close(zeros, {"a": np.zeros(2), "b": np.zeros(())}, rtol=0)


def test_half_precision_leaves_the_state_in_float32(corpus):
    chosen = config(corpus, train__precision="bfloat16")
    tx, state = start(chosen)
    dtypes = jax.tree.map(lambda a: a.dtype, state)
    _, full = start(config(corpus))
    batch = tokens(chosen)[0]
    new, metrics = make_train_step(chosen, tx)(state, batch, None)
    _, exact = make_train_step(config(corpus), tx)(full, batch, None)
    assert dtypes == jax.tree.map(lambda a: a.dtype, new)
    difference = abs(float(metrics["loss"]) - float(exact["loss"]))
    assert 0 < difference < 0.02
