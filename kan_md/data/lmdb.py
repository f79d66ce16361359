"""nequip's LMDB: one pickled dictionary of tensors per structure, read without trusting it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import ase
import torch
from nequip.data.ase import to_ase

from kan_md.errors import user_error

_METADATA = b"__metadata__"


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors and refuses everything that could run code."""

    ALLOWED = {  # noqa: RUF012 - a constant
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._tensor", "_rebuild_from_type_v2"): torch._tensor._rebuild_from_type_v2,
        ("collections", "OrderedDict"): dict,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), weights_only=True)
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor") from None


def read_lmdb(path: Path) -> Iterator[ase.Atoms]:
    """Read the structures of ``nequip.data.dataset.NequIPLMDBDataset.save_from_iterator``.

    Raises:
        KanMdError: lmdb is not installed, or the file is none of nequip's.
    """
    try:
        import lmdb
    except ImportError as error:
        raise user_error(
            f"reading {path} needs the lmdb package",
            found="not installed",
            allowed=None,
            remedy="pip install lmdb",
        ) from error
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, subdir=False)
    except lmdb.Error as error:
        raise _unreadable(path, error) from error
    try:
        with environment.begin() as transaction:
            number = transaction.stat()["entries"] - (transaction.get(_METADATA) is not None)
            for index in range(number):
                yield _structure(transaction.get(str(index).encode()), path, index)
    finally:
        environment.close()


def _structure(record: bytes | None, path: Path, index: int) -> ase.Atoms:
    try:
        if record is None:
            raise KeyError(f"no entry {index}")
        data = _TensorUnpickler(io.BytesIO(record)).load()
        atoms = to_ase(data)
        return atoms[0] if isinstance(atoms, list) else atoms
    except (pickle.UnpicklingError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> Exception:
    return user_error(
        f"{path} is not nequip's LMDB",
        found=" ".join(str(error).split()),
        allowed="what NequIPLMDBDataset.save_from_iterator writes",
        remedy="convert it to extended XYZ",
    )
