"""What is in a model file: trained, deployed by kan-md, or compiled by nequip."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from kan_md.contract import MANIFEST_KEY
from kan_md.errors import user_error
from kan_md_deploy.archive import read_manifest

_UPSTREAM_KEYS = ("r_max", "type_names", "model_dtype", "num_types", "per_edge_type_cutoff")


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
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any(name == MANIFEST_KEY or name.endswith("/" + MANIFEST_KEY) for name in names):
        manifest = read_manifest(path)
        untrained = {"untrained_types": list(manifest.untrained_types)}
        return head | {"what": "deployed"} | untrained | asdict(manifest)
    upstream = _upstream_metadata(path, names)
    if upstream:
        return head | {"what": "upstream"} | upstream
    return head | {"what": "trained"} | _describe_checkpoint(path)


def _upstream_metadata(path: Path, names: list[str]) -> dict:
    """Metadata of a nequip-compile file: TorchScript extra files, or AOTInductor's JSON."""
    if not names:
        return {}
    with zipfile.ZipFile(path) as archive:
        extra = {Path(name).name: name for name in names if Path(name).parent.name == "extra"}
        if {"r_max", "type_names"} <= extra.keys():
            return {"backend": "torchscript"} | {
                key: archive.read(extra[key]).decode() for key in _UPSTREAM_KEYS if key in extra
            }
        for name in names:
            if name.endswith("_metadata.json"):
                found = json.loads(archive.read(name))
                if {"r_max", "type_names"} <= found.keys():
                    device = found.get("AOTI_DEVICE_KEY", "unknown")
                    return {"backend": "aotinductor", "device": device} | {
                        key: found[key] for key in _UPSTREAM_KEYS if key in found
                    }
    return {}


def _describe_checkpoint(path: Path) -> dict:
    from kan_md.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    parameters = sum(tensor.numel() for tensor in checkpoint.state_dict.values())
    return {
        "format_version": checkpoint.format_version,
        "backbone": checkpoint.backbone,
        "type_names": list(checkpoint.type_names),
        "untrained_types": checkpoint.untrained_types,
        "r_max": checkpoint.r_max,
        "dtype": checkpoint.dtype,
        "readout": checkpoint.readout.model_dump(mode="json"),
        "readouts": checkpoint.readouts,
        **({} if checkpoint.note is None else {"note": checkpoint.note}),
        "numbers_in_state": parameters,
        "num_reference_frames": len(checkpoint.reference_frames),
        "model": checkpoint.config["model"],
        "units": checkpoint.units,
        "statistics": _jsonable(checkpoint.statistics),
        "training_summary": _jsonable(checkpoint.training_summary),
    }


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
