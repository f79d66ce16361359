"""What a file is, told by its content: models of this project and of others, data, text.

Nothing is unpickled and no torch is needed. Every command that takes a model asks here before it
complains, so that a wrong file is called by its name wherever it is given, and the way to the
command that takes it is said.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kan_md.contract import MANIFEST_KEY
from kan_md.errors import KanMdError, user_error
from kan_md.upstream_file import read_upstream_metadata

Wanted = Literal["trained", "source", "usable", "deployed", "compiled", "convertible", "any"]
"""A model.pth; one to start training from; a model.pth or a deployed file; a deployed file; that or
one of nequip-compile; a model of another program; any model."""

_WANTED: dict[Wanted, tuple[str, str]] = {
    "trained": ("{path} is not a whole model.pth", "give the model.pth that the training wrote"),
    "source": (
        "training.init_from {path} is not a whole model.pth",
        "give the model.pth that the training wrote",
    ),
    "usable": (
        "{path} is neither a whole model.pth nor a deployed file",
        "give what `kan-md train` or `kan-md deploy` wrote",
    ),
    "deployed": ("{path} is no model deployed by kan-md", "run `kan-md deploy model.pth`"),
    "compiled": (
        "the file must be a compiled model of kan-md deploy or nequip-compile: {path}",
        "run `kan-md deploy model.pth`",
    ),
    "convertible": (
        "{path} is no model that can be converted",
        "give best.ckpt of nequip-train, a .nequip.zip package, or the .model file of "
        "mace_run_train with --trust",
    ),
    "any": (
        "{path} is no model file",
        "give what `kan-md train`, `kan-md deploy` or nequip-compile wrote",
    ),
}
"""What a file is not, and what to do where nothing better is known."""

DEPLOYED = ("deployed", "deployed_package")
"""Kinds that `kan-md deploy` writes."""
MODELS = (
    *DEPLOYED,
    *("trained", "checkpoint", "nequip_checkpoint", "other_checkpoint", "nequip_package"),
    *("nequip_compiled", "mace", "mace_compiled", "mace_checkpoint", "torchscript", "package"),
    *("exported", "weights", "pickled", "safetensors"),
)
"""Kinds that are no data, whatever a program makes of them."""
MACE_COMPILED = "a compiled file (of mace_create_lammps_model or *_compiled.model)"

_CONVERT_NEQUIP = "convert it with `kan-md convert {path}`, which writes model.pth"
_MADE_FROM_NEQUIP = "convert the best.ckpt or the .nequip.zip that it was made from"
_COMPILED_BY_NEQUIP = (
    "it runs in LAMMPS by pair_style nequip or allegro, in `kan-md benchmark`, and in Python by "
    "nequip.ase.NequIPCalculator"
)
_CONVERT_AND_DEPLOY = "convert it with `kan-md convert {path} --trust` and deploy the result"
_RUNS = "it runs as it is: give it to pair_coeff, `kan-md evaluate` or `kan-md benchmark`"
_SOURCE = "give the model.pth that it was deployed from"
_DEPLOY = "run `kan-md deploy {path}`"
_DATA = "give it as data after a model, e.g. `kan-md evaluate model.pth {path}`"


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: short and fixed, for code.
        what: in words, with an article.
        remedies: what to do by what was wanted; ``""`` for everything else.
    """

    name: str
    what: str
    remedies: dict[str, str]


def _kind(name: str, what: str, remedy: str = "", **by_wanted: str) -> FileKind:
    return FileKind(name, what, ({"": remedy} if remedy else {}) | by_wanted)


_KINDS = {
    kind.name: kind
    for kind in (
        _kind(
            "trained",
            "a model.pth of kan-md",
            deployed=_DEPLOY,
            compiled=_DEPLOY,
            convertible="it needs no conversion: " + _DEPLOY,
        ),
        _kind(
            "deployed",
            "a file of kan-md deploy, a compiled (TorchScript) file",
            _SOURCE,
            convertible=_RUNS,
        ),
        _kind(
            "deployed_package",
            "a file of kan-md deploy, a compiled (AOTInductor) file",
            _SOURCE,
            convertible=_RUNS,
        ),
        _kind(
            "checkpoint",
            "a Lightning training checkpoint of kan-md train",
            "give the model.pth of its run: {model}",
        ),
        _kind(
            "nequip_checkpoint",
            "a Lightning training checkpoint of nequip",
            _CONVERT_NEQUIP,
        ),
        _kind("other_checkpoint", "a Lightning training checkpoint"),
        _kind("nequip_package", "a package of nequip-package", _CONVERT_NEQUIP),
        _kind(
            "nequip_compiled",
            "a file of nequip-compile",
            _COMPILED_BY_NEQUIP,
            trained=_MADE_FROM_NEQUIP + "; " + _COMPILED_BY_NEQUIP,
            source=_MADE_FROM_NEQUIP,
            convertible=_MADE_FROM_NEQUIP,
        ),
        _kind(
            "mace",
            "a pickled MACE model",
            "convert it with `kan-md convert {path} --trust`",
            deployed=_CONVERT_AND_DEPLOY,
            compiled=_CONVERT_AND_DEPLOY,
        ),
        _kind(
            "mace_compiled",
            MACE_COMPILED,
            "run `kan-md convert` on the .model file that it was made from",
            convertible="convert the .model file that it was made from",
        ),
        _kind(
            "mace_checkpoint",
            "a training checkpoint of mace_run_train",
            "run `kan-md convert` on the .model file that mace_run_train wrote at its end",
        ),
        _kind(
            "torchscript",
            "a compiled (TorchScript) file",
            trained=_SOURCE,
            convertible="convert the .model file that it was made from",
        ),
        _kind("package", "a compiled (AOTInductor) file", trained=_SOURCE),
        _kind("exported", "a program of torch.export"),
        _kind("weights", "a torch file of data that is no whole model"),
        _kind("pickled", "a file with pickled code"),
        _kind("old_pickle", "an old pickle"),
        _kind("safetensors", "a safetensors file, which has weights alone"),
        _kind("npz", "a NumPy archive", usable=_DATA),
        _kind("zip", "a zip archive of something else, without manifest"),
        _kind("compressed", "a compressed archive", "unpack it first"),
        _kind("hdf5", "an HDF5 file"),
        _kind("sqlite", "an SQLite file, as ASE's databases are", usable=_DATA),
        _kind("structures", "a text file of structures, no torch file", usable=_DATA),
        _kind(
            "configuration",
            "a configuration, no torch file",
            "run `kan-md train {path}`, which writes model.pth",
        ),
        _kind("text", "a text file, no torch file"),
        _kind("binary", "no torch file"),
        _kind("empty", "an empty file", "its writer did not finish: make it again"),
        _kind("truncated", "a truncated file", "copy it again"),
        _kind("damaged", "a file with damaged content", "get an intact copy"),
        _kind("folder", "a folder", "give a file in it: {model}"),
        _kind("unreadable", "a file that may not be read", "change its permissions"),
        _kind("missing", "no such file", "check the path"),
    )
}  # fmt: skip

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
_PLAIN_MODULES = ("torch", "collections", "_codecs", "numpy", "builtins")
_CONFIGURATION = re.compile(r"^(data|model|training|readout|backbone)\s*:", re.MULTILINE)
_HEAD = 4096


def recognise(path: str | Path) -> FileKind:
    """Tell what a file is; of one that is damaged inside, what it was meant to be."""
    return _KINDS[_name(Path(path))]


def wrong_file(path: str | Path, wanted: Wanted, *, kind: FileKind | None = None) -> KanMdError:
    """Say in one line what a file is instead of what was wanted, and which command takes it.

    Args:
        path: of the file.
        wanted: what was asked for.
        kind: of the file where it is known.
    """
    path = Path(path)
    kind = kind or recognise(path)
    what, otherwise = _WANTED[wanted]
    remedy = kind.remedies.get(wanted) or kind.remedies.get("") or otherwise
    return user_error(
        what.format(path=path),
        found=kind.what,
        allowed=None,
        remedy=remedy.format(path=path, model=_model_of_run(path)),
    )


def is_intact(path: str | Path) -> bool:
    """Whether every entry of a zip archive has the checksum that goes with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return False


def upstream_metadata(path: str | Path) -> dict[str, str]:
    """What a file of nequip-compile says of itself; empty where it is no such file, or damaged."""
    try:
        return read_upstream_metadata(path)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def _model_of_run(path: Path) -> str:
    """The model.pth of the run that a checkpoint or a folder belongs to, as well as one can say."""
    folder = path if path.is_dir() else path.parent.parent
    found = folder / "model.pth"
    return str(found) if found.is_file() else "RUN/model.pth, which the end of a training writes"


def _name(path: Path) -> str:
    if not path.exists():
        return "missing"
    if path.is_dir():
        return "folder"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return "unreadable"
    if not head:
        return "empty"
    if head.startswith(b"PK"):
        return _name_of_zip(path)
    if head.startswith(b"\x80"):
        return "mace" if b"mace.modules" in path.read_bytes() else "old_pickle"
    if head.startswith(_COMPRESSED):
        return "compressed"
    if head.startswith(b"\x89HDF"):
        return "hdf5"
    if head.startswith(b"SQLite format"):
        return "sqlite"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    return _name_of_text(head)


def _name_of_text(head: bytes) -> str:
    if b"\0" in head:
        return "binary"
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a character that the end of the head cuts
            return "binary"
        text = head[: error.start].decode("utf-8-sig")
    first, _, rest = text.lstrip().partition("\n")
    if first.strip().isdecimal() and rest:
        return "structures"
    return "configuration" if _CONFIGURATION.search(text) else "text"


def _name_of_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "truncated"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            last = {name.rsplit("/", 1)[-1] for name in names}
            is_package = any("/data/aotinductor/" in name for name in names)
            if MANIFEST_KEY in last:
                return "deployed_package" if is_package else "deployed"
            if upstream_metadata(path):
                return "nequip_compiled"
            if is_package:
                return "package"
            if "constants.pkl" in last:
                of_mace = any("/code/__torch__/mace/" in name for name in names)
                return "mace_compiled" if of_mace else "torchscript"
            if "extern_modules" in last:
                of_nequip = any(name.endswith("model/package_metadata.txt") for name in names)
                return "nequip_package" if of_nequip else "zip"
            pickled = [name for name in names if name.rsplit("/", 1)[-1] == "data.pkl"]
            if pickled:
                return _name_of_pickle(archive.read(pickled[0]))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return "damaged"
    if any(name.endswith("archive_format") for name in names):
        return "exported"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _name_of_pickle(content: bytes) -> str:
    """What ``torch.save`` wrote, by the names in it."""
    if b"pytorch-lightning_version" in content:
        if b"kan_md." in content:
            return "checkpoint"
        return "nequip_checkpoint" if b"nequip." in content else "other_checkpoint"
    if b"mace.calculators.lammps" in content:
        return "mace_compiled"
    if b"mace.modules" in content:
        return "mace"
    if all(key in content for key in (b"format_version", b"backbone", b"reference_frames")):
        return "trained"
    if all(key in content for key in (b"lr_scheduler", b"optimizer", b"interactions.0.")):
        return "mace_checkpoint"
    return "weights" if _is_plain(content) else "pickled"


def _is_plain(content: bytes) -> bool:
    """Whether a pickle names nothing but torch's and Python's own containers."""
    try:
        modules = {
            str(argument).split(maxsplit=1)[0].split(".")[0]
            for operation, argument, _ in pickletools.genops(content)
            if operation.name == "GLOBAL"
        }
    except ValueError:
        return False
    return modules <= set(_PLAIN_MODULES)
