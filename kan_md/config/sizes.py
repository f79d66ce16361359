"""Local potentials by size: complete configurations that are examples, too."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from kan_md.config.yaml_file import parse_yaml

Size = Literal["tiny", "small", "medium"]
SIZES: tuple[str, ...] = get_args(Size)
"""In the order of their cost, which the README tells."""

SMALL_ALLEGRO: dict[str, Any] = {
    "backbone": "allegro",
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 32,
    "num_tensor_features": 8,
    "scalar_embed_mlp_hidden_layers_width": 32,
    "allegro_mlp_hidden_layers_width": 32,
}
"""Section ``model`` but for ``r_max``: what local potentials are compared with, and what studies
have where many trainings count."""


def size_text(size: Size) -> str:
    """The configuration of a size, with its comments."""
    return (files("kan_md.config") / "examples" / f"local_{size}.yaml").read_text()


def size_content(size: Size) -> dict:
    """The same as :func:`kan_md.config.load.parse_config` takes it."""
    return parse_yaml(size_text(size), source=f"size {size}")


def config_for_data(size: Size, data: Path, folder: Path) -> str:
    """The configuration of a size for a file of one's own.

    Args:
        size: of the model.
        data: structures with labels.
        folder: of the configuration, where its relative paths start.

    Returns:
        The text of the file, comments included.
    """
    path = os.path.relpath(data, folder) if not data.is_absolute() else str(data)
    quoted = path if re.fullmatch(r"[\w./-]+", path) else "'" + path.replace("'", "''") + "'"
    return re.sub(r"train: train\.xyz *", lambda _: f"train: {quoted}  ", size_text(size), count=1)
