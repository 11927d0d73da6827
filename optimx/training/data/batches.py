"""Batches as pure functions of (seed, step): there is no iterator to restore."""

import numpy as np

from optimx.training.data.shards import Shards

Tokens = np.ndarray | Shards
ALL = slice(None)


def training_batch(
    tokens: Tokens,
    *,
    seed: int,
    step: int,
    shape: tuple[int, int],
    context: int,
    rows: slice = ALL,
) -> np.ndarray:
    """Windows of ``context + 1`` tokens at random starts, with repetition.

    Starts are the raw 64-bit output of the Philox counter generator with the key
    (seed, step), modulo the number of starts. Raw output is defined by the
    algorithm alone, so a batch is the same in every NumPy version.

    Args:
      tokens: the corpus, one axis, more than ``context`` long.
      seed: of the run, in [0, 2**64).
      step: from 0.
      shape: the leading axes, (accumulation, batch size).
      context: length of a training sequence.
      rows: which of the batch size's sequences are wanted; no others are read.

    Returns:
      int32 tokens of shape ``(*shape, context + 1)``, or fewer rows along its second
      axis: inputs and, one to the right, targets.
    """
    generator = np.random.Philox(key=np.array([seed, step], np.uint64))
    count = shape[0] * shape[1]
    starts = generator.random_raw(count) % np.uint64(len(tokens) - context)
    return _windows(tokens, starts.reshape(shape)[:, rows], context)


def validation_batches(
    tokens: Tokens, *, batches: int, batch_size: int, context: int, rows: slice = ALL
) -> np.ndarray:
    """The fixed evaluation set: windows spread evenly over the held-out tokens.

    They overlap if there are fewer tokens than the windows hold.

    Returns:
      int32 tokens of shape ``(batches, batch_size, context + 1)``, or fewer rows
      along its second axis.
    """
    last = len(tokens) - context - 1
    starts = np.linspace(0, last, batches * batch_size).astype(np.int64)
    return _windows(tokens, starts.reshape(batches, batch_size)[:, rows], context)


def _windows(tokens: Tokens, starts_AxB: np.ndarray, context: int) -> np.ndarray:
    windows = np.empty((*starts_AxB.shape, context + 1), np.int32)
    for place in np.ndindex(starts_AxB.shape):
        start = int(starts_AxB[place])
        windows[place] = tokens[start : start + context + 1]
    return windows
