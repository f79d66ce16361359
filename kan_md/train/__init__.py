"""Training from a configuration to model.pth; ``kan_md.train(config, folder)`` does it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


class _Training(ModuleType):
    """A package that is called like the function it is named after: both are ``kan_md.train``."""

    def __call__(self, *arguments: object, **options: object) -> Path:
        """See :func:`kan_md.train.run.train`."""
        from kan_md.train.run import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Training
