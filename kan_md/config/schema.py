"""What a training configuration may say. Each attribute below is a key of the YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from ase.data import chemical_symbols
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    model_validator,
)

from kan_md.backbones.readout import ReadoutConfig
from kan_md.config.duration import parse_duration
from kan_md.errors import user_error
from kan_md.tasks.choose import task_of
from kan_md.tasks.task import Task


class Section(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, (str, Path)) else value


Paths = Annotated[list[Path], BeforeValidator(_as_list), Field(min_length=1)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Duration = Annotated[Positive, BeforeValidator(parse_duration)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _as_size(value: object) -> object:
    """A share or a number; 12.0 is the number 12, as earlier versions wrote it."""
    if isinstance(value, bool):
        raise ValueError("must be a share up to 1 (0.8) or a number of structures (12)")
    if isinstance(value, float) and value > 1.0:
        if not value.is_integer():
            raise ValueError("must be a share up to 1 (0.8) or a number of structures (12)")
        return int(value)
    return value


Size = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0.0, allow_inf_nan=False)],
    BeforeValidator(_as_size),
]


class SplitConfig(Section):
    """How frames that are not named explicitly are divided.

    A number with a point is a share of the frames, a whole number counts them: ``train: 1`` is one
    structure, ``train: 1.0`` are all. Shares that are not given take what the others leave, in the
    ratio 8 : 1 : 1; beside numbers they are 0.8, 0.1 and 0.1 as far as that is left. Shares that
    make 1 together use every frame. The share of a test set with a file of its own does not
    count, and beside a file for ``data.val`` nothing is divided.

    Attributes:
        method: ``random``, or ``block``: the file is cut into ``blocks`` equal pieces, and each
            piece gives its first frames to training, the next to validation, the last to test, so
            that neighbours in a trajectory rarely end up on both sides.
        train: share or number of the frames. Where frames are left out, isolated atoms for one,
            and too few remain for all numbers, they are missing here.
        val: likewise; the best model is chosen on these.
        test: likewise; only looked at in the end.
        blocks: number of pieces of ``method: block``.
        seed: of ``method: random``.
    """

    method: Literal["random", "block"] = "random"
    train: Size | None = None
    val: Size | None = None
    test: Size | None = None
    blocks: PositiveInt = 10
    seed: Annotated[int, Field(ge=0)] = 0


class KeysConfig(Section):
    """Names of the labels in the files, where they are not what ASE's calculators say.

    Attributes:
        energy: entry of ``info``, eV.
        forces: column, eV/Å.
        stress: entry of ``info``, eV/Å³, positive = tension; 6 (ASE's Voigt order) or 9 numbers.
        virial: entry of ``info``, eV; used as stress = -virial/volume where there is no stress.
        weight: entry of ``info``, factor of a frame's share in the loss. MACE's
            ``config_energy_weight``, ``config_forces_weight`` and ``config_stress_weight`` are
            those of single labels. A label of weight 0 is a missing label, as one that is NaN is.

    Where a name below is absent, those of MACE and GAP are looked for (``REF_energy``,
    ``dft_forces``, ``virials``, ...); training says what it read.
    """

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
    virial: str = "virial"
    weight: str = "config_weight"


class DataConfig(Section):
    """Structures with labels.

    Attributes:
        train: extended XYZ, anything else that ASE reads, or nequip's LMDB; one file, a list, or a
            pattern like ``data/*.xyz``.
            Relative paths start at the folder of the configuration file.
        val: likewise; otherwise taken from ``train`` by ``split``.
        test: likewise.
        replay: likewise; structures that ``training.init_from`` was trained on, so that the model
            does not forget them, or that a teacher has labelled (``kan-md data augment``). They
            join the training set whatever ``split`` says.
        replay_size: share or number of them, chosen by ``split.seed``; all where absent.
        split: how ``train`` is divided.
        keys: names of the labels.
        missing_stress: whether frames without stress are left out of its loss (``mask``), as frames
            without other labels are, or an ``error`` when the loss asks for stress.
        max_force: leave out frames with a force component beyond this, eV/Å.
        isolated_atoms: frames of single atoms without neighbours, or with ``config_type:
            IsolatedAtom``, give reference energies (``reference``); ``train`` has them in the loss
            as well.
        graph_memory: GB of memory that the graphs of all structures may take, in each process. More
            is kept in a file in the folder for temporary files, ``TMPDIR``.
    """

    train: Paths
    val: Paths | None = None
    test: Paths | None = None
    replay: Paths | None = None
    replay_size: Size | None = None
    split: SplitConfig = SplitConfig()
    keys: KeysConfig = KeysConfig()
    missing_stress: Literal["error", "mask"] = "mask"
    max_force: Positive | None = None
    isolated_atoms: Literal["reference", "train"] = "reference"
    graph_memory: Positive = 4.0

    @model_validator(mode="after")
    def _split_can_be_made(self) -> DataConfig:
        sizes = {name: getattr(self.split, name) for name in self.divided}
        shares = [size for size in sizes.values() if isinstance(size, float)]
        if sum(shares) > 1 + 1e-9:
            found = ", ".join(f"{name} {size}" for name, size in sizes.items() if size is not None)
            raise ValueError(
                f"split shares together must not exceed 1, got {found}; a number with a point is "
                "a share of all structures, a whole number counts them"
            )
        for name in ("train", "val"):
            if sizes.get(name) == 0:
                raise ValueError(f"split.{name} must be > 0 where data.{name} has to be divided")
        return self

    @property
    def divided(self) -> list[str]:
        """Parts that ``split`` makes of the frames of ``train``: none beside a file for ``val``."""
        if self.val is not None:
            return []
        return ["train", "val"] + ["test"] * (self.test is None)


_REFERENCE_WORDS = {
    "average": "least_squares",
    "isolatedatom": "isolated",
    "isolated_atoms": "isolated",
}


def _as_references(value: object) -> object:
    """Reference energies in MACE's words, and by atomic number."""
    if isinstance(value, str):
        return _REFERENCE_WORDS.get(value.lower(), value)
    if isinstance(value, Mapping):
        for key, energy in value.items():
            if not isinstance(energy, (int, float)) or not math.isfinite(energy):
                raise ValueError(f"the energy of {key} must be a finite number in eV")
        return {
            chemical_symbols[int(key)]
            if str(key).isdigit() and int(key) < len(chemical_symbols)
            else key: energy
            for key, energy in value.items()
        }
    return value


class ModelConfig(Section):
    """The backbone; further keys are the hyperparameters of its upstream builder.

    Attributes:
        backbone: ``allegro``, ``nequip``, ``mace`` or ``etgnn``.
        r_max: cutoff, Å.
        type_names: element symbols; by default those of the data, by atomic number.
        dtype: ``float32`` or ``float64``.
        per_type_energy_shifts: reference energy of each type: ``auto`` takes isolated atoms where
            the training files have them and least squares over the training set for the others;
            ``isolated`` (all types must have one), ``least_squares``, ``zero``, or a mapping in eV.
            MACE's ``E0s`` is another name of it (``average`` and ``{29: -3.2}`` included).
        per_type_energy_scales: ``forces_rms`` of the training set, or a number in eV. With
            ``training.init_from`` the words mean that model's; ``zero`` and numbers are what they
            say.
        avg_num_neighbors: what sums over neighbours are divided by; in Allegro and NequIP by its
            root. ``auto`` counts those of the training set. It decides how large the inputs of a
            MACE's readout are, and so how fast one that is not fitted to them learns.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    backbone: Literal["allegro", "nequip", "mace", "etgnn"]
    r_max: Positive
    type_names: list[str] | None = None
    dtype: Literal["float32", "float64"] = "float32"
    per_type_energy_shifts: Annotated[
        Literal["auto", "isolated", "least_squares", "zero"] | dict[str, FiniteFloat],
        BeforeValidator(_as_references),
    ] = "auto"
    per_type_energy_scales: Literal["forces_rms"] | Positive = "forces_rms"
    avg_num_neighbors: Literal["auto"] | Positive | dict[str, FiniteFloat] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, content: object) -> object:
        if isinstance(content, Mapping) and "E0s" in content:
            if "per_type_energy_shifts" in content:
                raise ValueError("E0s is another name of per_type_energy_shifts, got both")
            content = {**content, "per_type_energy_shifts": content["E0s"]}
            del content["E0s"]
        return content

    @property
    def hyperparameters(self) -> dict[str, object]:
        """The keys that go to the upstream builder as they are."""
        return dict(self.model_extra or {})


class FitGridConfig(Section):
    """Moving the KAN grids onto the activations, at the start and after them while they move.

    Activations move most in the first epochs. Grids of random weights alone leave functions to be
    lines where the inputs have gone, and anything where no inputs are: such models extrapolate far
    worse. Later a move costs more than it gains, since a function is never quite the same on
    another grid.

    Attributes:
        steps: optimiser steps at which the grids are fitted, the first one whatever it changes.
        blend: 0 places the first grid by quantiles, 1 by the whole range of the activations.
        every: epochs between two looks at whether the activations have left the grids; these then
            follow, with the functions as they are, as they do at the later ``steps``. ``null``: a
            grid moves only where its functions stay the same to 1e-6, which those of Gaussians
            hardly ever do.
        until: share of the budget after which grids that follow stay where they are.
    """

    steps: list[Annotated[int, Field(ge=0)]] = [0, 10, 30, 100, 200, 300, 450, 600, 750, 900]
    blend: Fraction = 0.5
    every: PositiveInt | None = 1
    until: Fraction = 0.1


class ReadoutSection(ReadoutConfig):
    """The output block as :class:`kan_md.backbones.readout.ReadoutConfig` describes it.

    Attributes:
        fit_grid: when to fit the grids of a KAN to its inputs; ``null`` keeps ``grid_range``.
    """

    fit_grid: FitGridConfig | None = None

    @model_validator(mode="after")
    def _grids_are_those_of_a_kan(self) -> ReadoutSection:
        if self.fit_grid is not None and self.kind != "kan":
            raise user_error(
                f"readout.fit_grid has no effect with readout.kind {self.kind}",
                found="fit_grid",
                allowed=None,
                remedy="leave it out, or set readout.kind: kan",
            )
        return self

    @property
    def architecture(self) -> ReadoutConfig:
        """Without what matters to training only."""
        names = ReadoutConfig.model_fields
        return ReadoutConfig.model_construct(**{name: getattr(self, name) for name in names})


class TargetConfig(Section):
    """A tensor to learn, for backbones that predict tensors.

    Attributes:
        name: of the array in the files (per atom: columns, last index fastest) or ``info`` entry.
        rank: number of Cartesian indices.
        per: ``atom`` or ``structure``.
        symmetry: see :class:`kan_md.backbones.etgnn.TensorSpec`.
        reduction: of structure tensors over atoms.
        acoustic_sum_rule: subtract the structure's mean.
        unit: for tables and plots.
        weight: in the loss.
    """

    name: str = "bec"
    rank: Annotated[int, Field(ge=0, le=3)] = 2
    per: Literal["atom", "structure"] = "atom"
    symmetry: Literal["full", "symmetric", "traceless"] = "full"
    reduction: Literal["mean", "sum"] = "mean"
    acoustic_sum_rule: bool | None = None
    unit: str = ""
    weight: Weight = 1.0


Balanced = Literal["balanced"]
_OMITTED = {"energy": 1.0, "forces": 1.0, "stress": 0.0}
"""Weights that are not given beside one that is."""


class LossConfig(Section):
    """Weighted sum of the errors of energy, forces and stress.

    ``balanced``, alone or for all three weights, takes the weights from how far the labels of the
    training set vary, see :mod:`kan_md.train.balanced_weights`. Where a number is given, weights
    that are not given are 1, 1 and 0.

    Attributes:
        energy: weight of the energy error, eV/atom (or eV, see ``energy_per``).
        forces: weight of the force components' error, eV/Å.
        stress: weight of the stress components' error, eV/Å³.
        function: ``mse``, ``huber`` or ``mae``.
        delta: where Huber turns from square to linear, in units of each label.
        energy_per: ``atom`` or ``structure``.
    """

    energy: Weight | Balanced = "balanced"
    forces: Weight | Balanced = "balanced"
    stress: Weight | Balanced = "balanced"
    function: Literal["mse", "huber", "mae"] = "mse"
    delta: Positive = 0.01
    energy_per: Literal["atom", "structure"] = "atom"

    @model_validator(mode="before")
    @classmethod
    def _balanced_alone(cls, value: object) -> object:
        if value == "balanced":
            return {}
        if isinstance(value, str):
            raise ValueError("a loss is `balanced`, or weights like {energy: 1, forces: 1}")
        return value

    @model_validator(mode="after")
    def _weights_go_together(self) -> LossConfig:
        given = {name: getattr(self, name) for name in _OMITTED if name in self.model_fields_set}
        if not any(isinstance(weight, float) for weight in given.values()):
            return self
        if "balanced" in given.values():
            raise ValueError("energy, forces and stress are all `balanced` or all numbers")
        weights = {**_OMITTED, **given}
        if sum(weights.values()) == 0.0:
            raise ValueError("at least one of energy, forces, stress must be > 0")
        self.__dict__.update(weights)  # model_fields_set keeps what the file says
        return self

    @property
    def is_balanced(self) -> bool:
        """Whether the weights are still to be worked out."""
        return "balanced" in (self.energy, self.forces, self.stress)


class OptimizerConfig(Section):
    """The optimiser.

    Attributes:
        name: a class of ``torch.optim``, or ``soap``: Adam in the eigenbasis of Shampoo's
            preconditioner (arXiv 2409.11321), which small models need fewer epochs with.
        lr: largest learning rate.
        weight_decay: see torch.
    """

    name: Literal["adamw", "adam", "radam", "sgd", "soap"] = "adamw"
    lr: Positive = 0.005
    weight_decay: Weight = 0.0


class ScheduleConfig(Section):
    """Learning rate over the budget (epochs or time, whichever is nearer its end).

    Attributes:
        name: ``cosine`` (down to ``final``), ``one_cycle`` (cosine up in ``warmup``, cosine down),
            ``exponential``, ``plateau`` (times ``factor`` when the validation score has not
            improved for ``patience`` epochs), or ``constant``.
        warmup: share of the budget in which the rate grows to ``lr``.
        final: last rate as a share of ``lr``.
        factor: of ``plateau``.
        patience: of ``plateau``, epochs.
    """

    name: Literal["cosine", "one_cycle", "exponential", "plateau", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    final: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    patience: PositiveInt = 10


class EarlyStopConfig(Section):
    """Ends training when the validation score stays without improvement.

    Attributes:
        patience: epochs to wait.
        min_delta: smallest change that counts.
    """

    patience: PositiveInt = 50
    min_delta: Weight = 0.0


class RegularizationConfig(Section):
    """Penalties on the functions of KAN layers, see :mod:`kan_md.kan.regularize`.

    Attributes:
        l1: weight of the sum of sizes.
        entropy: weight of the entropy of the sizes.
        curvature: weight of the functions' integrated squared curvature, in units of the loss: it
            keeps functions smooth where a grid has few inputs or none.
    """

    l1: Weight = 0.0
    entropy: Weight = 0.0
    curvature: Weight = 0.0


class StageConfig(Section):
    """A later phase with a loss of its own, e.g. energy-weighted.

    Attributes:
        start: share of the budget at which it begins.
        loss: replaces ``training.loss``.
        lr: learning rate from here on; the schedule's where absent.
    """

    start: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    loss: LossConfig
    lr: Positive | None = None


_BATCH_SIZE = 5


class TrainingConfig(Section):
    """How the model is trained.

    Attributes:
        loss: what is minimised.
        optimizer: by what.
        schedule: of the learning rate.
        batch_size: structures per step, 5; with ``batch_edges`` no limit unless one is given.
        batch_edges: most edges per step, for structures of many sizes; a number of edges takes
            about the same memory and time in whichever structures they are. Every step then has
            about as many edges as the others.
        val_batch_size: structures per validation step; ``batch_edges`` counts there, too.
        epochs: passes over the training set; at least one of ``epochs`` and ``max_time``.
        max_time: wall-clock budget, e.g. ``90s``, ``10m``, ``2h``, from the start of the command to
            the end of its writing; counted over interruptions.
        ema: decay of the running average of the weights, which is what is kept; ``null`` is off.
        early_stop: when to give up.
        gradient_clip: largest norm of the gradient.
        regularization: of KAN layers.
        stages: later phases.
        seed: of weights and the order of the frames.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: processes on each machine, a GPU each, or on CPUs ``threads`` cores each. They
            share every batch: ``batch_size`` and ``batch_edges`` are those of all together, and
            numbers do not depend on how many there are. ``kan-md train`` starts them; under SLURM
            ``srun kan-md train ...`` does, with one task each.
        num_nodes: machines with so many processes each; needs ``srun`` or ``torchrun``.
        threads: of each process on CPUs; torch's choice where absent.
        form: how energies are evaluated: ``fast``, with products of weights that are formed once
            per step, ``upstream``, or ``auto``: ``fast`` where it is known. The same numbers.
        init_from: model.pth whose weights are taken over. Section model may be left out, and so may
            any of its keys: they are that model's. Elements of the training set that it does not
            have are added and start from an average. Readouts may differ: a KAN of one layer
            starts as the function of the readout there, by least squares, others start fresh.
        fresh_readout: start the readout fresh whatever there is in ``init_from``.
        freeze: ``backbone`` trains the readout alone, ``radial`` all but the functions of
            distances.
        loggers: where the numbers of every epoch go: ``csv``, the log.csv of the run, which is
            always written; ``tensorboard``; ``wandb`` (Weights & Biases).
        refit: solve the last layer of the readouts of the best epoch exactly for the training set
            when training ends, see :mod:`kan_md.solve.refit`; the validation set decides how far.
            It takes a few epochs' time, on top of ``max_time``. Potentials, one process.
        reference_frames: structures stored in model.pth to check compiled files against.
    """

    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: PositiveInt | None = None
    batch_edges: PositiveInt | None = None
    val_batch_size: PositiveInt = 10
    epochs: PositiveInt | None = None
    max_time: Duration | None = None
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.99
    early_stop: EarlyStopConfig | None = None
    gradient_clip: Positive | None = None
    regularization: RegularizationConfig = RegularizationConfig()
    stages: list[StageConfig] = []
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    threads: PositiveInt | None = None
    form: Literal["auto", "fast", "upstream"] = "auto"
    init_from: Path | None = None
    fresh_readout: bool = False
    freeze: Literal["none", "backbone", "radial"] = "none"
    loggers: list[Literal["csv", "tensorboard", "wandb"]] = ["csv"]
    refit: bool = False
    reference_frames: Annotated[int, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _batches_have_a_size(self) -> TrainingConfig:
        if self.batch_size is None and self.batch_edges is None:
            self.__dict__["batch_size"] = _BATCH_SIZE  # model_fields_set keeps what the file says
        return self

    @model_validator(mode="after")
    def _has_a_budget_and_ordered_stages(self) -> TrainingConfig:
        if self.epochs is None and self.max_time is None:
            raise ValueError("give epochs, max_time or both")
        starts = [stage.start for stage in self.stages]
        if starts != sorted(set(starts)):
            raise ValueError("stages must have increasing start")
        return self


class TrainConfig(Section):
    """A whole configuration file.

    Attributes:
        data: structures and how they are divided.
        model: the backbone.
        readout: its output block.
        targets: tensors to learn (tensor backbones only).
        training: how.
    """

    data: DataConfig
    model: ModelConfig
    readout: ReadoutSection = ReadoutSection()
    targets: list[TargetConfig] = []
    training: TrainingConfig

    @property
    def task(self) -> Task:
        """What the model is to predict."""
        tensors = [target.model_dump(exclude={"weight"}) for target in self.targets]
        return task_of(self.model.backbone, {"tensors": tensors})

    @model_validator(mode="after")
    def _what_is_refitted_is_a_potential_in_one_process(self) -> TrainConfig:
        training = self.training
        if not training.refit:
            return self
        if not self.task.is_differentiated:
            found, remedy = f"backbone {self.model.backbone}", "leave it out"
        elif training.devices * training.num_nodes > 1:
            found = f"{training.devices * training.num_nodes} processes"
            remedy = "leave it out, and run `kan-md refit` afterwards"
        else:
            return self
        allowed = "potentials, trained by one process"
        raise user_error("training.refit", found=found, allowed=allowed, remedy=remedy)

    @model_validator(mode="after")
    def _penalties_are_those_of_a_kan(self) -> TrainConfig:
        for name, weight in self.training.regularization.model_dump().items():
            if weight > 0 and self.readout.kind != "kan":
                raise user_error(
                    f"training.regularization.{name} has no effect with readout.kind "
                    f"{self.readout.kind}",
                    found=weight,
                    allowed=None,
                    remedy="leave it out, or set readout.kind: kan",
                )
        return self
