"""model.pth: a potential as plain data, without pickled code.

The file is a ``torch.save`` of nested dicts, lists, numbers, strings and tensors, and loads with
``weights_only=True``: opening a stranger's file runs nothing. A digest over all of it tells a
tampered or damaged file from a whole one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from nequip.nn.graph_model import GraphModel

from kan_md.backbones.build import build_model, stored_arguments
from kan_md.backbones.readout import ReadoutConfig, parse_readout
from kan_md.backbones.readout_report import describe_readouts
from kan_md.backbones.weights import WeightsDoNotFitError, load_weights
from kan_md.contract import UNITS
from kan_md.errors import KanMdError, user_error
from kan_md.files import write_bytes
from kan_md.model.elements import Elements, elements_of
from kan_md.model.file_kind import FileKind, Wanted, is_intact, recognise, wrong_file

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 1
_DIGEST_KEY = "digest"


@dataclass(kw_only=True)
class Checkpoint:
    """Everything that is known of a trained potential.

    Attributes:
        backbone: architecture.
        config: ``{"model": {...}}`` with the keyword arguments of
            :func:`kan_md.backbones.build.build_model` (all but the backbone); optionally
            ``"atomic_numbers"``, ``{type name: Z}`` for types that are not named after elements,
            and whatever else the training wants to remember.
        type_names: names of the atom types, in the order of the type index.
        r_max: cutoff, Å.
        state_dict: weights and buffers by name.
        statistics: of the training data; ``untrained_types``, names of those that no structure
            has; ``min_distances`` ([num_types²], Å, row-major, centre
            first, 0 where never seen) goes into the manifest.
        units: of everything that the model takes and gives.
        reference_frames: structures with the eager model's numbers, see
            :class:`kan_md.model.reference.ReferenceFrame`.
        training_summary: how the model came about; ``"readouts"`` is what stands at its sites, see
            :func:`kan_md.backbones.readout_report.describe_readouts`.
        format_version: of this layout.
    """

    backbone: str
    config: dict
    type_names: list[str]
    r_max: float
    state_dict: dict[str, torch.Tensor]
    statistics: dict = field(default_factory=dict)
    units: dict = field(default_factory=lambda: dict(UNITS))
    reference_frames: list = field(default_factory=list)
    training_summary: dict = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def elements(self) -> Elements:
        """Atomic numbers and masses of the types."""
        return elements_of(self.type_names, self.config.get("atomic_numbers"))

    @property
    def dtype(self) -> str:
        """Dtype that the model was trained in."""
        return self.config["model"]["model_dtype"]

    @property
    def arguments(self) -> dict:
        """Arguments that build the model today, whatever the version that wrote them."""
        return self._stored()[0]

    @property
    def untrained_types(self) -> list[str]:
        """Types whose weights are as random as before the training."""
        return list(self.statistics.get("untrained_types", []))

    @property
    def note(self) -> str | None:
        """What is to be said of the model before it is used, if anything."""
        return self._stored()[1]

    @property
    def readout(self) -> ReadoutConfig:
        """The output block as it was built."""
        return parse_readout(self.arguments["readout"])

    @property
    def readouts(self) -> list[dict]:
        """What stands at the sites; files of earlier versions are built to find it out."""
        recorded = self.training_summary.get("readouts")
        return recorded or describe_readouts(self._build(self.dtype), self.backbone)

    def _stored(self) -> tuple[dict, str | None]:
        return stored_arguments(self.backbone, self.config["model"], self.state_dict)

    def build(self, dtype: str | None = None) -> GraphModel:
        """Make the network and load the weights; :attr:`note` goes to the log.

        The result can be scripted with ``e3nn.util.jit.script``, which changes it in place.

        Args:
            dtype: ``float32`` or ``float64``; the dtype of the training where ``None``.

        Returns:
            The model in eval mode, on the CPU.

        Raises:
            KanMdError: the weights do not belong to the configuration.
        """
        if self.note is not None:
            _say_once(self.note)
        return self._build(dtype or self.dtype)

    def _build(self, dtype: str) -> GraphModel:
        model = build_model(self.backbone, **self.arguments | {"model_dtype": dtype})
        try:
            load_weights(model, self.state_dict)
        except WeightsDoNotFitError as error:
            raise user_error(
                "weights of the checkpoint do not fit its configuration",
                found=error,
                allowed=None,
                remedy="train the model again with this version of kan-md",
            ) from error
        return model.eval()


@functools.cache
def _say_once(note: str) -> None:
    """Log a note, though a command builds its model several times."""
    _LOG.warning("kan-md: note: %s", note)


def _plain(value: object) -> object:
    """Turn pydantic models and tuples into what a weights-only file may hold."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def save_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike) -> Path:
    """Write model.pth; an older file stays as it was until the new one is complete.

    Raises:
        KanMdError: the file cannot be written, or a type is no element and has no atomic number.
    """
    _ = checkpoint.elements  # raises now rather than at deploy
    content = {f.name: _plain(getattr(checkpoint, f.name)) for f in fields(checkpoint)}
    content[_DIGEST_KEY] = _digest(content)
    return write_bytes(path, saved_bytes(content))


def saved_bytes(content: object) -> memoryview:
    """What ``torch.save`` writes; its own writer ends the process where a disk is full."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def load_checkpoint(path: str | os.PathLike, *, wanted: Wanted = "trained") -> Checkpoint:
    """Read model.pth without running any code from it.

    Args:
        path: of the file.
        wanted: what the file was to be, for the message.

    Raises:
        KanMdError: the file is missing, damaged, tampered with, or something else.
    """
    path = Path(path)
    if path.is_dir():
        raise user_error(
            "a model is a file, not a folder",
            found=path,
            allowed=None,
            remedy="give the model.pth in it, or check the path",
        )
    if not path.is_file():
        raise user_error(
            "model file not found", found=path, allowed=None, remedy="check the path of model.pth"
        )
    try:
        with warnings.catch_warnings():
            # Torch warns of compiled files, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise _not_a_checkpoint(path, wanted) from error
    if not isinstance(content, dict):
        kind = FileKind("data", f"a saved {type(content).__name__}", {})
        raise wrong_file(path, wanted, kind=kind)
    known = {f.name for f in fields(Checkpoint)} | {_DIGEST_KEY}
    if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise user_error(
            f"format version of {path}",
            found=content["format_version"],
            allowed=FORMAT_VERSION,
            remedy="train the model again with this version of kan-md",
        )
    again = "train the model again with this version of kan-md"
    if content.keys() != known:
        kind = recognise(path)
        if kind.name in ("trained", "weights"):
            odd = ", ".join(sorted(map(str, content.keys() ^ known))[:5])
            kind = FileKind("data", f"missing or unknown entries {odd}", {"": again})
        raise wrong_file(path, wanted, kind=kind)
    if content.pop(_DIGEST_KEY) != _digest(content):
        remedy = "get an intact copy, or train the model again"
        kind = FileKind("changed", "content that does not match its digest", {"": remedy})
        raise wrong_file(path, wanted, kind=kind)
    return Checkpoint(**content)


def _not_a_checkpoint(path: Path, wanted: Wanted) -> KanMdError:
    """What a file is that torch does not read as plain data."""
    kind = recognise(path)
    if kind.name in ("trained", "weights") or (kind.name == "pickled" and not is_intact(path)):
        kind = FileKind("damaged", "a file with damaged content", {"": "get an intact copy"})
    return wrong_file(path, wanted, kind=kind)


def _digest(content: object) -> str:
    """SHA-256 over names, types and values of nested plain data."""
    state = hashlib.sha256()
    _feed(state, content)
    return state.hexdigest()


def _feed(state: hashlib._Hash, value: object) -> None:
    if isinstance(value, Mapping):
        state.update(b"{")
        for key in sorted(value, key=str):
            _feed(state, key)
            _feed(state, value[key])
        state.update(b"}")
    elif isinstance(value, (list, tuple)):
        state.update(b"[")
        for item in value:
            _feed(state, item)
        state.update(b"]")
    elif isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous().numpy()
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.tobytes())
    else:
        state.update(f"{type(value).__name__}:{value!r};".encode())
