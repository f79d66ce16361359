"""A trained potential as the function that its deployed file would have, without the file."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nequip.nn import GraphModel

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.contract import Dtype
from kan_md.errors import user_error
from kan_md.forms.choice import with_fixed_weights
from kan_md.ops import is_built, operators_in_layers
from kan_md.tasks.choose import task_of_checkpoint
from kan_md.tasks.judgement import Remembered, as_it_is
from kan_md.tasks.potential_deviation import Deviation
from kan_md_deploy.compilation import rewritten_model
from kan_md_deploy.judged_graphs import judged_graphs, reference_graphs
from kan_md_deploy.manifest import describe_model
from kan_md_deploy.options import choose_options
from kan_md_deploy.passes.tables.size import MOST_IN_FILE
from kan_md_deploy.runtime import DeployedModel, load_operators
from kan_md_deploy.torchscript import TorchScriptFunction, compile_torchscript

if TYPE_CHECKING:
    from kan_md.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class InMemory:
    """What came of :func:`compile_in_memory`.

    Attributes:
        model: the compiled function.
        found: how far it is from the trained model in float64, on the reference frames.
    """

    model: DeployedModel
    found: Deviation


def compile_in_memory(checkpoint: Checkpoint, trained: GraphModel, *, dtype: Dtype) -> InMemory:
    """Take the steps of :func:`kan_md_deploy.deploy` for a processor.

    The result is held to the same tolerances on the same structures as a file; what it is held
    against is the training form of the float64 model, which tests hold to upstream's, since
    upstream's arithmetic takes several times as long as everything else here.

    Args:
        checkpoint: of a potential.
        trained: made of it by :func:`kan_md.forms.choice.with_fixed_weights`, on the processor.
        dtype: of ``trained`` and of the result.

    Raises:
        KanMdError: the model cannot be compiled, has more types than tables are made for, or the
            compiled one is not the trained one.
    """
    count = len(checkpoint.type_names)
    if count**2 > MOST_IN_FILE:
        raise user_error(
            "types of a model that is compiled in memory",
            found=count,
            allowed=f"up to {int(MOST_IN_FILE**0.5)}",
            remedy="kan-md deploy --elements makes a file of some of them",
        )
    options = choose_options(
        checkpoint,
        backend="torchscript",
        device="cpu",
        dtype=dtype,
        passes="default",
        bound=None,
        operators="fused",
        static_shapes=None,
        tf32=False,
    )
    task, groups = task_of_checkpoint(checkpoint), judged_graphs(checkpoint)
    with nequip_settings(), operators_in_layers() if is_built() else nullcontext():
        eager, exact = task.edge_model(trained), trained
        if dtype != "float64":
            exact = with_fixed_weights(checkpoint.build("float64"))
        reference = Remembered(task.edge_model(exact))
        edge_model, manifest = rewritten_model(
            checkpoint,
            options,
            describe_model(checkpoint, exact, task),
            reference_graphs(checkpoint),
        )
        load_operators(manifest)
        function = TorchScriptFunction(compile_torchscript(edge_model))
        model = DeployedModel(function, manifest, device="cpu")
        found = []
        for where, graphs in groups.items():
            found.append(task.deviation(model, reference, graphs))
            task.check(
                found[-1],
                rounding=task.deviation(eager, reference, graphs, variants=as_it_is),
                precision=manifest.precision,
                bound=options.bound,
                where=where,
            )
    return InMemory(model, found[0])
