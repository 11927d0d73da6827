"""Checkpoints: what is saved, verified, restored and carried over."""
