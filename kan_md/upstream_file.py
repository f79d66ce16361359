"""What files of nequip-compile say of themselves, read without torch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

KEYS = ("r_max", "type_names", "model_dtype", "num_types", "per_edge_type_cutoff")
_NEEDED = {"r_max", "type_names"}
_INPUTS_KEY = "nequip_aoti_inputs"


def read_upstream_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of a file of nequip-compile: TorchScript's extra files, or AOTInductor's JSON.

    Args:
        path: a zip archive.

    Returns:
        ``backend``, those of KEYS that are there, of an AOTInductor package also ``device``, and
        ``pair_style`` where it can be told: TorchScript has the code of Allegro's modules, and a
        Cartesian cell among a package's inputs is what pair_style nequip has. Empty for a file of
        another kind.

    Raises:
        zipfile.BadZipFile: no zip archive.
        ValueError: damaged metadata.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        extra = {Path(name).name: name for name in names if Path(name).parent.name == "extra"}
        if extra.keys() >= _NEEDED:
            found = {key: archive.read(extra[key]).decode() for key in KEYS if key in extra}
            return {"backend": "torchscript"} | found | _style_of_code(names)
        for name in names:
            if not name.endswith("_metadata.json"):
                continue
            found = json.loads(archive.read(name))
            if found.keys() >= _NEEDED:
                device = found.get("AOTI_DEVICE_KEY", "unknown")
                known = {key: found[key] for key in KEYS if key in found}
                if _INPUTS_KEY in found:
                    of_nequip = "cell" in found[_INPUTS_KEY].split()
                    known["pair_style"] = "nequip" if of_nequip else "allegro"
                return {"backend": "aotinductor", "device": device} | known
    return {}


def _style_of_code(names: list[str]) -> dict[str, str]:
    """The pair style of a TorchScript file, by the packages that its code is from."""
    packages = {n.partition("/code/__torch__/")[2].partition("/")[0] for n in names}
    style = next((style for style in ("allegro", "nequip") if style in packages), None)
    return {} if style is None else {"pair_style": style}
