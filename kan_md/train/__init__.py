"""Training on top of Lightning and nequip."""
