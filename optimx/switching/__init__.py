"""From one optimizer to another: what two states have in common."""
