"""The project's own measurements: what made the pages of this folder. Not part of the package."""
