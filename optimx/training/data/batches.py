"""Batches as pure functions of (seed, step): there is no iterator to restore."""

import numpy as np


def training_batch(
    tokens: np.ndarray, *, seed: int, step: int, shape: tuple[int, int], context: int
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

    Returns:
      int32 tokens of shape ``(*shape, context + 1)``: inputs and, one to the
      right, targets.
    """
    generator = np.random.Philox(key=np.array([seed, step], np.uint64))
    count = shape[0] * shape[1]
    starts = generator.random_raw(count) % np.uint64(len(tokens) - context)
    return _windows(tokens, starts.astype(np.int64), context).reshape(*shape, -1)


def validation_batches(
    tokens: np.ndarray, *, batches: int, batch_size: int, context: int
) -> np.ndarray:
    """The fixed evaluation set: windows spread evenly over the held-out tokens.

    They overlap if there are fewer tokens than the windows hold.

    Returns:
      int32 tokens of shape ``(batches, batch_size, context + 1)``.
    """
    last = len(tokens) - context - 1
    starts = np.linspace(0, last, batches * batch_size).astype(np.int64)
    return _windows(tokens, starts, context).reshape(batches, batch_size, -1)


def _windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    offsets = np.arange(context + 1)
    return tokens[starts[:, None] + offsets].astype(np.int32)
