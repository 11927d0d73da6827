"""What the papers claim, tried in miniature: measurements along the trainer's runs."""
