"""What an optimizer costs, measured: ``python -m optimx bench``.

Needs the ``train`` extra. Importing :mod:`optimx` itself never loads it.
"""
