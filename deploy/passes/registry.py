"""The passes that there are, in the order in which they run."""

from __future__ import annotations

import difflib

from nequip.nn import GraphModel

from kan_md.errors import user_error
from kan_md_deploy.passes.base import Pass, PassContext
from kan_md_deploy.passes.centre_factored import CentreFactored
from kan_md_deploy.passes.fused_allegro import FusedAllegro
from kan_md_deploy.passes.fused_local_mace import FusedLocalMACE
from kan_md_deploy.passes.fused_message_passing import FUSED_MACE, FUSED_NEQUIP
from kan_md_deploy.passes.kan_collapse import KANCollapse
from kan_md_deploy.passes.radial_tables import RadialTables

PASSES: tuple[Pass, ...] = (
    CentreFactored(),
    FusedAllegro(),
    FusedLocalMACE(),
    FUSED_MACE,
    FUSED_NEQUIP,
    RadialTables(),
    KANCollapse(),
)
OLD_NAMES = {"fused_kan": "kan_collapse"}
"""Names that were passes of their own and still choose what took them over."""


def choose_passes(passes: str) -> list[Pass]:
    """Read ``--passes``: ``none``, ``default`` (all of them) or names with commas.

    Raises:
        KanMdError: a name is unknown.
    """
    if passes == "none":
        return []
    if passes == "default":
        return list(PASSES)
    names = [OLD_NAMES.get(name.strip(), name.strip()) for name in passes.split(",")]
    known = {item.name: item for item in PASSES}
    for name in names:
        if name in ("none", "default"):
            raise user_error(
                f"{name} stands alone in --passes",
                found=repr(passes),
                allowed="none, default, or names with commas",
                remedy="correct --passes",
            )
        if name not in known:
            near = difflib.get_close_matches(name, ["none", "default", *known], n=1)
            raise user_error(
                "unknown optimisation pass",
                found=repr(name),
                allowed=", ".join(["none", "default", *known]),
                remedy=f"did you mean {near[0]}?" if near else "correct --passes",
            )
    return [item for item in PASSES if item.name in names]


def run_passes(model: GraphModel, passes: list[Pass], context: PassContext) -> dict[str, dict]:
    """Apply passes in place, each where it applies.

    Returns:
        Reports by name of the passes that were applied, for the manifest; ``skipped`` in a report
        says why a pass left the model as it was.
    """
    reports = {}
    for item in passes:
        possible = context.task.kind in item.kinds and not (
            item.needs_operators and context.operators == "portable"
        )
        if possible and item.applies_to(model, context):
            reports[item.name] = item.apply(model, context)
    return reports
