"""What a step would cost on devices that are not there."""
