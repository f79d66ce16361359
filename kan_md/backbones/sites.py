"""Places in an upstream model where a readout may stand, and putting one there.

Upstream's graph modules keep their fields and names; only the function inside them, which maps
scalars to scalars, is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from kan_md.backbones.readout import ReadoutConfig, make_readout
from kan_md.errors import user_error


@dataclass(frozen=True)
class FunctionSlot:
    """The child ``name`` of ``parent``, a module that maps scalars to scalars.

    Attributes:
        parent: holds it.
        name: of the child.
        place: which one it is, where a site has several, for people.
    """

    parent: torch.nn.Module
    name: str
    place: str = ""

    @property
    def function(self) -> torch.nn.Module:
        """The module that is there now: upstream's, or a readout put there before."""
        return self.parent.get_submodule(self.name)

    @property
    def widths(self) -> tuple[int, int]:
        """Number of scalars that go in, and that come out."""
        widths = widths_of(self.function)
        assert widths is not None, "only functions of scalars have slots"
        return widths[0], widths[-1]

    def put(self, function: torch.nn.Module) -> None:
        """Exchange it for ``function``."""
        setattr(self.parent, self.name, function)


def widths_of(function: torch.nn.Module) -> list[int] | None:
    """Number of scalars before, between and after the layers of a function of scalars.

    None for another module than an MLP of ours, nequip's or e3nn's, ETGNN's dense layer or a KAN.
    """
    for name in ("dims", "widths", "hs"):
        if hasattr(function, name):
            return list(getattr(function, name))
    return None


def check_sites(readout: ReadoutConfig, sites: Iterable[str], *, backbone: str) -> None:
    """Check that the backbone has the sites that are asked for.

    Raises:
        KanMdError: it has not.
    """
    sites = tuple(sites)
    for site in readout.sites:
        if site != "all" and site not in sites:
            raise user_error(
                f"readout.sites of {backbone}",
                found=site,
                allowed=", ".join([*sites, "all"]),
                remedy="choose one of these",
            )


def readout_generator() -> torch.Generator:
    """A generator seeded from torch's global stream.

    nequip's model builder has isolated and seeded that stream, so the seed of the model is the seed
    of its readouts.
    """
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))


def put_readouts(
    sites: Mapping[str, list[FunctionSlot]], readout: ReadoutConfig, *, backbone: str
) -> None:
    """Put a fresh readout into every slot of the sites that ``readout`` names.

    Args:
        sites: the backbone's slots by site.
        readout: what to put, and where.
        backbone: name for the error message.

    Raises:
        KanMdError: the backbone has no such site, no functions per type, or no densities.
    """
    check_sites(readout, sites, backbone=backbone)
    if readout.per_type:
        raise user_error(
            f"readout.per_type has no effect with {backbone}",
            found="per_type true",
            allowed="mace",
            remedy="leave it out, or set model.backbone: mace",
        )
    if readout.kind == "finnis_sinclair":
        raise user_error(
            f"readout.kind of {backbone}",
            found=readout.kind,
            allowed="kan, mlp, linear; finnis_sinclair is for the densities of mace",
            remedy="choose one of these, or set model.backbone: mace",
        )
    generator = readout_generator()
    for site, slots in sites.items():
        if readout.covers(site):
            for slot in slots:
                slot.put(make_readout(*slot.widths, readout, generator=generator))
