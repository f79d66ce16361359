"""Which errors are minimised and which are shown, as nequip's metrics managers take them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kan_md.config.schema import LossConfig, TrainConfig
from kan_md.tasks.targets import Target

MONITOR = "val0_epoch/weighted_sum"
"""What the best model is chosen by: the loss of the last stage on the validation set."""


def loss_weights(loss: LossConfig, config: TrainConfig) -> dict[str, float]:
    """Weight of each target's loss, by target name; only those > 0.

    Balanced weights that are not worked out yet count as 1.
    """
    given = {spec.name: spec.weight for spec in config.targets}
    weights = {
        target.name: given[target.name] if target.name in given else getattr(loss, target.name)
        for target in config.task.targets
    }
    numbers = {name: 1.0 if weight == "balanced" else weight for name, weight in weights.items()}
    return {name: weight for name, weight in numbers.items() if weight > 0}


def all_losses(config: TrainConfig) -> list[LossConfig]:
    """Loss of each stage in order."""
    return [config.training.loss, *(stage.loss for stage in config.training.stages)]


def learned_names(config: TrainConfig) -> set[str]:
    """Targets that some stage has in its loss."""
    return set().union(*(loss_weights(loss, config) for loss in all_losses(config)))


def unasked_losses(config: TrainConfig) -> set[str]:
    """Targets that are in the loss by default, not by the configuration."""
    asked = {
        name
        for loss in all_losses(config)
        for name in loss.model_fields_set
        if getattr(loss, name) != "balanced"
    }
    given = {spec.name for spec in config.targets}
    return {target.name for target in config.task.targets} - given - asked


def without_losses(config: TrainConfig, names: Collection[str]) -> TrainConfig:
    """The configuration with some targets taken out of every ``training.loss``."""
    weights = dict.fromkeys(names, 0.0)
    training = config.training
    stages = [
        stage.model_copy(update={"loss": stage.loss.model_copy(update=weights)})
        for stage in training.stages
    ]
    loss = training.loss.model_copy(update=weights)
    training = training.model_copy(update={"loss": loss, "stages": stages})
    return config.model_copy(update={"training": training})


def loss_manager(loss: LossConfig, config: TrainConfig, targets: Sequence[Target]) -> dict:
    """Configuration of the manager of the training loss, with every stage's terms."""
    learned = learned_names(config)
    return {
        "_target_": "nequip.train.MetricsManager",
        "metrics": [
            _loss_term(target, loss, loss_weights(loss, config).get(target.name))
            for target in targets
            if target.name in learned
        ],
    }


def monitor_manager(config: TrainConfig, targets: Sequence[Target], shown: set[str]) -> dict:
    """Configuration of the manager of validation errors; its weighted sum chooses the model."""
    losses = loss_manager(all_losses(config)[-1], config, targets)["metrics"]
    return {
        "_target_": "nequip.train.MetricsManager",
        "metrics": [*losses, *error_manager(targets, shown)["metrics"]],
    }


def error_manager(targets: Sequence[Target], shown: set[str]) -> dict:
    """Configuration of a manager of the errors that are shown: MAE and RMSE of each target."""
    metrics = []
    for target in targets:
        if target.name not in shown:
            continue
        for function in ("mae", "rmse"):
            metrics.append(_error(target, function, per_atom=target.extensive))
            if target.extensive:
                metrics.append(_error(target, function, per_atom=False))
    return {"_target_": "nequip.train.MetricsManager", "metrics": metrics}


def shown_unit(name: str, targets: Sequence[Target]) -> str:
    """Unit of the error called ``name``, e.g. ``energy_mae``."""
    target = next(target for target in targets if name.startswith(f"{target.name}_"))
    per_atom = target.extensive and "per_structure" not in name
    return f"{target.unit}/atom" if per_atom else target.unit


def milli(unit: str) -> tuple[str, float]:
    """Write errors in eV as meV; other units stay. Unit to show, and the factor."""
    return (f"m{unit}", 1000.0) if unit.startswith("eV") else (unit, 1.0)


def _loss_term(target: Target, loss: LossConfig, weight: float | None) -> dict:
    return {
        "name": f"loss_{target.name}",
        "coeff": weight,
        "metric": _metric(
            target,
            per_atom=target.extensive and loss.energy_per == "atom",
            function=loss.function,
            delta=loss.delta,
            weighted=True,
        ),
    }


def _error(target: Target, function: str, *, per_atom: bool) -> dict:
    middle = "_per_structure" if target.extensive and not per_atom else ""
    return {
        "name": f"{target.name}{middle}_{function}",
        "metric": _metric(target, per_atom=per_atom, function=function),
    }


def _metric(target: Target, **options: object) -> dict:
    return {
        "_target_": "kan_md.train.losses.TargetError",
        "field": target.field,
        "per": target.per,
        **options,
    }


def stage_coefficients(loss: LossConfig, config: TrainConfig) -> Mapping[str, float]:
    """What to give to ``MetricsManager.set_coeffs`` when a stage begins."""
    return {f"loss_{name}": weight for name, weight in loss_weights(loss, config).items()}
