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
        function = self.function
        widths = function.dims if hasattr(function, "dims") else function.widths
        return widths[0], widths[-1]

    def put(self, function: torch.nn.Module) -> None:
        """Exchange it for ``function``."""
        setattr(self.parent, self.name, function)


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
        KanMdError: the backbone has no such site, or no functions per type.
    """
    check_sites(readout, sites, backbone=backbone)
    if readout.per_type:
        raise user_error(
            f"readout.per_type has no effect with {backbone}",
            found="per_type true",
            allowed="mace",
            remedy="leave it out, or set model.backbone: mace",
        )
    generator = readout_generator()
    for site, slots in sites.items():
        if readout.covers(site):
            for slot in slots:
                slot.put(make_readout(*slot.widths, readout, generator=generator))
