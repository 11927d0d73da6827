"""Wrappers: what a transformation sees, and how it keeps its state."""
