"""What of a readout is linear, solved exactly: refit in seconds, and uncertainty in closed form."""
