"""Stages: one idea, one state, one file."""
