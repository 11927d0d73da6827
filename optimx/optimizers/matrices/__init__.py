"""Optimizers of matrices: each a sentence, with AdamW for what is not a matrix."""
