import itertools

import numpy as np

from optimx.training.data import training_batch, validation_batches

TOKENS = np.arange(1000, dtype=np.uint16)


def batch(seed=0, step=0, tokens=TOKENS):
    return training_batch(tokens, seed=seed, step=step, shape=(2, 3), context=8)


def test_a_batch_is_windows_of_the_tokens():
    tokens = batch()
    assert (tokens.shape, tokens.dtype) == ((2, 3, 9), np.int32)
    assert (np.diff(tokens, axis=-1) == 1).all()


def test_a_batch_depends_on_seed_and_step_alone():
    np.testing.assert_array_equal(batch(3, 5), batch(3, 5))
    starts = [batch(seed, step)[..., 0] for seed, step in ((3, 5), (3, 6), (4, 5))]
    assert all((a != b).any() for a, b in itertools.pairwise(starts))


def test_starts_are_the_generators_raw_output():
    # Pinned: another value here means that runs can no longer be resumed exactly.
    assert batch(1, 2)[..., 0].tolist() == [[233, 202, 11], [546, 195, 552]]


def test_every_start_is_drawn_and_none_beyond_the_last():
    short = TOKENS[:12]
    starts = np.concatenate([batch(0, s, short)[..., 0].ravel() for s in range(40)])
    assert set(starts) == {0, 1, 2, 3}


def test_evaluation_reaches_from_the_first_token_to_the_last():
    fixed = validation_batches(TOKENS, batches=3, batch_size=2, context=9)
    assert fixed.shape == (3, 2, 10)
    assert (fixed[0, 0, 0], fixed[-1, -1, -1]) == (0, 999)
    assert (np.diff(fixed[..., 0].ravel()) >= 10).all()


def test_evaluation_overlaps_where_the_text_is_short():
    fixed = validation_batches(TOKENS[:10], batches=2, batch_size=2, context=9)
    assert (fixed == np.arange(10)).all()
