"""Meshes, processes, and which part of a batch each of them reads."""
