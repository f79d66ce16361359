"""Checkpoints of nequip-train and packages of nequip-package, read without running their code.

A checkpoint is a torch file of plain data: the builder's arguments, as they were when training
began, and the weights. Where an average of the weights was kept, that is the model, as everything
of nequip takes it. A package is an archive of code, a pickled model and the configuration as text:
text and weights are read, the code is left alone.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

from kan_md.errors import KanMdError, user_error
from kan_md.model.file_kind import recognise, wrong_file
from kan_md.model.inert_pickle import Inert, read_package_pickle, state_of

_SOLE_MODEL = "sole_model."
_PER_TYPE = "modify_PerTypeScaleShift"
_KEEPS_WEIGHTS = re.compile(rf"{_PER_TYPE}|enable_\w+|disable_ForceStressOutput")
"""Modifiers of nequip that leave a model what it is: the first one changes numbers that are in the
state, the others choose code."""
_EMA = "ema."


@dataclass(frozen=True)
class NequIPFile:
    """What a file of nequip says.

    Attributes:
        kind: of the file.
        target: the model builder, ``module.name``.
        arguments: of the builder.
        state: weights and buffers by name, in the order in which the model has them.
        averages: the exponential moving average of each parameter, in the order of the model;
            None where none was kept.
        versions: of the packages that it was made with, by name.
    """

    kind: Literal["checkpoint", "package"]
    target: str
    arguments: dict[str, object]
    state: dict[str, torch.Tensor]
    averages: list[torch.Tensor] | None
    versions: dict[str, str]

    def weights(self, parameters: Collection[str]) -> dict[str, torch.Tensor]:
        """The state that nequip evaluates: with the averages in the place of the parameters.

        Args:
            parameters: names in the state that are parameters. Their order is the state's, which
                versions of nequip do not share.

        Raises:
            KanMdError: the averages are not those of the parameters.
        """
        if self.averages is None:
            return self.state
        names = [name for name in self.state if name in parameters]
        shapes = [tuple(self.state[name].shape) for name in names]
        if shapes != [tuple(average.shape) for average in self.averages]:
            raise user_error(
                "averaged weights of the checkpoint are not those of its parameters",
                found=f"{len(self.averages)} averages",
                allowed=f"{len(names)} of the parameters' shapes",
                remedy="run nequip-package build on it, and convert the package",
            )
        return self.state | dict(zip(names, self.averages, strict=True))


def read_nequip_file(path: Path, *, trust: bool = False) -> NequIPFile:
    """Read a checkpoint or a package.

    Args:
        path: of the file.
        trust: whether a checkpoint with more than plain data may be unpickled.

    Raises:
        KanMdError: it is neither, is damaged, or holds something else than one potential.
    """
    kind = recognise(path).name
    try:
        if kind == "nequip_checkpoint":
            return _read_checkpoint(path, trust=trust)
        if kind == "nequip_package":
            return _read_package(path)
    except KanMdError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError,
            zipfile.BadZipFile, EOFError, RuntimeError, yaml.YAMLError) as error:  # fmt: skip
        raise user_error(
            f"{path} cannot be read as nequip's",
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            allowed="files of nequip 0.7 and later",
            remedy="get an intact copy, or write it again with nequip-train",
        ) from error
    raise wrong_file(path, "convertible")


def _read_checkpoint(path: Path, *, trust: bool) -> NequIPFile:
    content = _load_plain(path, trust=trust)
    hyper, state = content["hyper_parameters"], content["state_dict"]
    info = hyper["info_dict"]
    module = info.get("training_module", {}).get("_target_", "")
    if "schedulefree_optimizer_state_dict" in content or "ScheduleFree" in module:
        raise user_error(
            f"{path} has the weights that a schedule-free optimiser trains, not those it evaluates",
            found=module or "schedulefree_optimizer_state_dict",
            allowed="NequIPLightningModule, EMALightningModule",
            remedy="run nequip-package build on it, and convert the package",
        )
    target, arguments = _builder(hyper["model"], path)
    return NequIPFile(
        kind="checkpoint",
        target=target,
        arguments=arguments,
        state=_of_one_model(
            {
                name.removeprefix("model."): value
                for name, value in state.items()
                if name.startswith("model.") and isinstance(value, torch.Tensor)
            },
            path,
        ),
        averages=_averages(state, path),
        versions=_versions(info.get("versions")),
    )


def _load_plain(path: Path, *, trust: bool) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise user_error(
                f"{path} holds more than plain data, and opening it runs the code in it",
                found="no consent",
                allowed=None,
                remedy="add --trust if you know where it comes from",
            ) from error
    return torch.load(path, map_location="cpu", weights_only=False)


def _averages(state: Mapping[str, object], path: Path) -> list[torch.Tensor] | None:
    """Exponential moving averages by their numbers."""
    if f"{_EMA}_extra_state" not in state:
        return None
    if not state[f"{_EMA}_extra_state"]["is_holding_ema_weights"]:
        raise user_error(
            f"{path} was saved while the average of the weights was in use",
            found="weights and averages exchanged",
            allowed=None,
            remedy="give a checkpoint that was saved at the end of an epoch",
        )
    count = sum(name.startswith(f"{_EMA}ema_weight_") for name in state)
    return [state[f"{_EMA}ema_weight_{number}"] for number in range(count)]


def _read_package(path: Path) -> NequIPFile:
    texts = _texts_of_package(path)
    model = read_package_pickle(path, "model", "eager_model.pkl")
    if not isinstance(model, Inert):
        raise TypeError(f"{type(model).__name__} instead of a model")
    target, arguments = _builder(texts["config.yaml"]["training_module"]["model"], path)
    return NequIPFile(
        kind="package",
        target=target,
        arguments=arguments,
        state=_of_one_model(state_of(model), path),
        averages=None,
        versions=_versions(texts["package_metadata.txt"].get("versions")),
    )


def _texts_of_package(path: Path) -> dict[str, dict]:
    """Configuration of the training and metadata."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: yaml.safe_load(archive.read(entry))
            for name in ("config.yaml", "package_metadata.txt")
            for entry in archive.namelist()
            if entry.endswith(f"/model/{name}")
        }


def _builder(model: Mapping[str, object], path: Path) -> tuple[str, dict[str, object]]:
    """Name and arguments of the builder, inside of what changes or loads a model."""
    arguments = dict(model)
    target = str(arguments.pop("_target_"))
    name = target.rsplit(".", 1)[-1]
    if name == "modify":
        for modifier in arguments["modifiers"]:
            if not _KEEPS_WEIGHTS.fullmatch(str(modifier["modifier"])):
                raise user_error(
                    f"modifier of the model in {path}",
                    found=modifier["modifier"],
                    allowed=f"{_PER_TYPE}, enable_*",
                    remedy="this one cannot be converted",
                )
        return _builder(arguments["model"], path)
    source = {"ModelFromCheckpoint": "checkpoint_path", "ModelFromPackage": "package_path"}
    if name in source:
        return _builder_of_source(Path(str(arguments[source[name]])), path)
    return target, arguments


def _builder_of_source(source: Path, path: Path) -> tuple[str, dict[str, object]]:
    """The builder of the file that a training started from; its weights are not needed."""
    places = [source, path.parent / source, path.parent / source.name]
    found = next((place for place in places if place.is_file() and place != path), None)
    if found is None:
        raise user_error(
            f"the training of {path} started from a file, which says how the model is built",
            found=f"no {source}",
            allowed=None,
            remedy=f"put {source.name} beside {path.name}",
        )
    if recognise(found).name == "nequip_package":
        return _builder(_texts_of_package(found)["config.yaml"]["training_module"]["model"], found)
    return _builder(_load_plain(found, trust=False)["hyper_parameters"]["model"], found)


def _of_one_model(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    others = {name.split(".")[0] for name in state if not name.startswith(_SOLE_MODEL)}
    if others or not state:
        raise user_error(
            f"{path} holds other models than one potential",
            found=", ".join(sorted(others)) or "none",
            allowed=_SOLE_MODEL.rstrip("."),
            remedy="train one model per run",
        )
    return {name.removeprefix(_SOLE_MODEL): value for name, value in state.items()}


def _versions(found: Mapping[str, object] | None) -> dict[str, str]:
    return {str(name): str(version) for name, version in (found or {}).items()}
