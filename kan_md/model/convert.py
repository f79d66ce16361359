"""From the models of other programs to model.pth, whatever the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ase

from kan_md.backbones.readout import ReadoutConfig
from kan_md.errors import user_error
from kan_md.model.conversion import Conversion
from kan_md.model.file_kind import recognise
from kan_md.model.restrict import parse_elements, restrict

_OF_NEQUIP = ("nequip_checkpoint", "nequip_package")


def convert_model(
    path: Path,
    *,
    trust: bool = False,
    head: str | None = None,
    readout: ReadoutConfig | Mapping | str | None = None,
    structures: Sequence[ase.Atoms] = (),
    model_dtype: str | None = None,
    elements: Sequence[str] | str | None = None,
    seed: int = 0,
) -> Conversion:
    """Convert a model of mace_run_train, nequip-train or nequip-package.

    Args:
        path: of the file.
        trust: whether code in the file may be run.
        head: which of several heads of a MACE model to keep.
        readout: what to put in place of upstream's readouts; ``None`` keeps them.
        structures: to compare on and to fit a KAN to; made up where there are none.
        model_dtype: dtype to train and deploy in; where ``None`` the original's to train in, and
            float32 to deploy in.
        elements: what to keep of a model of many elements, see :func:`restrict`; all by default.
        seed: of new weights and of made-up structures.

    Raises:
        KanMdError: the file cannot be converted, or the converted model has other energies.
    """
    chosen = parse_elements(elements)
    result = _convert(
        path,
        trust=trust,
        head=head,
        readout=readout,
        structures=structures,
        elements=chosen,
        model_dtype=model_dtype,
        seed=seed,
    )
    result.checkpoint.training_summary["dtype_chosen"] = model_dtype is not None
    if chosen is None:
        return result
    return replace(result, checkpoint=restrict(result.checkpoint, chosen))


def _convert(path: Path, *, trust: bool, head: str | None, **given: object) -> Conversion:
    if path.is_file() and recognise(path).name in _OF_NEQUIP:
        if head is not None:
            raise user_error(
                "models of nequip have no heads",
                found=f"--head {head}",
                allowed=None,
                remedy="leave --head out",
            )
        from kan_md.model.convert_nequip import convert_nequip

        return convert_nequip(path, trust=trust, **given)
    from kan_md.model.convert_mace import convert_mace

    return convert_mace(path, trust=trust, head=head, **given)
