"""Optimizers: one paper per file, each a sentence of named stages."""
