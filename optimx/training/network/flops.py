"""Arithmetic of a training step, counted from the model's sizes."""

from optimx.training.network.model import parameter_count
from optimx.training.sections import Model


def per_token(config: Model, context: int) -> int:
    """Floating-point operations of the forward and backward pass, for one token.

    6 for each parameter that multiplies (positions only add) and 12 L D T for the
    attention over T tokens, causality not discounted: the count that published
    utilizations use. What rematerialization repeats does not count.

    Args:
      config: a resolved ``[model]`` section.
      context: T, tokens of a training sequence.
    """
    products = parameter_count(config) - config.context * config.width
    return 6 * products + 12 * config.layers * config.width * context
