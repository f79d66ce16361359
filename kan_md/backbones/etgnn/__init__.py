"""ETGNN: equivariant tensor properties from scalar messages."""
