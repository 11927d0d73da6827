"""The GPT-2 that is trained: layers, attention, loss, and what they cost."""
