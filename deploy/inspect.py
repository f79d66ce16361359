"""What is in a model file: trained, deployed by kan-md, or compiled by nequip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from kan_md.errors import user_error
from kan_md.model.file_kind import DEPLOYED, recognise, upstream_metadata
from kan_md_deploy.archive import read_manifest


def describe_file(path: str | Path) -> dict:
    """Describe a model file as plain data.

    Args:
        path: model.pth, a deployed file, or a file of nequip-compile.

    Returns:
        ``{"file": ..., "what": "trained" | "deployed" | "upstream", ...}``.

    Raises:
        KanMdError: the file is missing, damaged, changed, or none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise user_error("model file not found", found=path, allowed=None, remedy="check the path")
    head = {"file": str(path), "bytes": path.stat().st_size}
    kind = recognise(path)
    if kind.name in DEPLOYED:
        manifest = read_manifest(path)
        untrained = {"untrained_types": list(manifest.untrained_types)}
        return head | {"what": "deployed"} | untrained | asdict(manifest)
    if kind.name == "nequip_compiled":
        return head | {"what": "upstream"} | upstream_metadata(path)
    return head | {"what": "trained"} | _describe_checkpoint(path)


def _describe_checkpoint(path: Path) -> dict:
    from kan_md.backbones.readout import keys_in_effect
    from kan_md.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, wanted="any")
    parameters = sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    return {
        "format_version": checkpoint.format_version,
        "backbone": checkpoint.backbone,
        "type_names": list(checkpoint.type_names),
        "untrained_types": checkpoint.untrained_types,
        "r_max": checkpoint.r_max,
        "dtype": checkpoint.dtype,
        "readout": keys_in_effect(checkpoint.readout),
        "readouts": checkpoint.readouts,
        **({} if checkpoint.note is None else {"note": checkpoint.note}),
        "numbers_in_state": parameters,
        "num_reference_frames": len(checkpoint.reference_frames),
        "model": checkpoint.config["model"],
        "units": checkpoint.units,
        "statistics": _jsonable(checkpoint.statistics),
        "training_summary": _jsonable(
            {k: v for k, v in checkpoint.training_summary.items() if k != "readouts"}
        ),
    }


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
