"""What a configuration leaves to the model that a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kan_md.backbones.arguments import STATISTICS
from kan_md.backbones.build import ADAPTERS, upstream_names
from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.transfer import readout_arguments
from kan_md.model.checkpoint import load_checkpoint

_OTHERS = STATISTICS | {"seed", "type_names", "model_dtype", "r_max", "readout", "tensors"}
"""Arguments of a model that are no hyperparameters: what trains settles them."""


def complete_from_source(content: Mapping, base: Path) -> Mapping:
    """Take from ``training.init_from`` what sections model and readout leave out.

    Keys that are given stay as they are; whether they describe that model is found out where the
    weights are taken over. Without section readout the readout is that model's own; with it,
    nothing of that readout is taken.

    Args:
        content: of a configuration file.
        base: folder at which relative paths start.

    Returns:
        The content, complete where there is such a model.

    Raises:
        KanMdError: the file is no model, and the configuration needs it.
    """
    training, given = content.get("training"), content.get("model")
    path = training.get("init_from") if isinstance(training, Mapping) else None
    model = {} if given is None else given
    if not isinstance(path, (str, Path)) or not isinstance(model, Mapping):
        return content
    path = base / Path(path).expanduser()
    if {"backbone", "r_max"} <= model.keys() and not path.is_file():
        return content  # of a run that is resumed, perhaps: it has its weights
    source = load_checkpoint(path, wanted="source")
    if model.get("backbone", source.backbone) != source.backbone:
        return content  # refused where the weights are taken over
    theirs, readout = source.arguments, content.get("readout")
    if readout is None:
        readout = source.readout.model_dump(mode="json")
    else:
        of_readout = readout_arguments(source.backbone, _architecture(readout))
        theirs = {name: value for name, value in theirs.items() if name not in of_readout}
    complete = {
        "backbone": source.backbone,
        "r_max": source.r_max,
        "dtype": source.dtype,
        **_hyperparameters(source.backbone, theirs, model),
        **model,
    }
    return {**content, "model": complete, "readout": readout}


def _architecture(readout: object) -> ReadoutConfig:
    """Section readout without what matters to training only."""
    if not isinstance(readout, Mapping):
        return parse_readout(readout)
    return parse_readout({k: v for k, v in readout.items() if k in ReadoutConfig.model_fields})


def _hyperparameters(
    backbone: str, theirs: Mapping[str, object], given: Mapping[str, object]
) -> dict[str, object]:
    """Those of the source that are given by neither of their names."""
    own = {key: value for key, value in given.items() if key not in ("backbone", "dtype")}
    known = upstream_names(backbone, own) if backbone in ADAPTERS else own
    return {
        name: value
        for name, value in theirs.items()
        if name not in known and name not in _OTHERS and value is not None
    }
