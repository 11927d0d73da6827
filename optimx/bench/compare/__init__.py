"""Optimizers side by side, each as well tuned as the others: ``optimx compare``."""
