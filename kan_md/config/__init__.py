"""The training configuration file."""
