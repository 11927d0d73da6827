"""The commands, family by family: their words, and what they do.

The command line reads the words before anything heavy is loaded, so what a command
needs is imported by its function.
"""
