"""A GPT-2 trainer in Flax NNX, built on the optimizers of :mod:`optimx`.

Needs the ``train`` extra. Importing :mod:`optimx` itself never loads it.
"""
