"""Linear algebra of the preconditioners: arrays in, arrays out, batched."""
