"""What several areas of the tests share: labelled structures, tiny models, deployed files.

Everything here is made once per session, files once for all workers; no test may change them.
"""

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from emulated_device import build_emulated_device
from shared_files import SharedFiles

# Tables and paths as wide as they are, whatever terminal the tests run in.
os.environ["COLUMNS"] = "200"

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]

# Warnings of dependencies, each by its text and with the reason why it is not ours.
DEPENDENCY_WARNINGS = [
    # torch 2.10 and later deprecate TorchScript as a whole; nequip and e3nn still script.
    r"ignore:.*torch\.jit\.\w+.* is (deprecated|not supported).*:DeprecationWarning",
    r"ignore:`?torch\.jit\.\w+`? is deprecated.*:FutureWarning",  # from torch 2.14 on
    r"ignore:.*TorchScript.* is deprecated.*:DeprecationWarning",
    # e3nn's generated code annotates attributes in a way that torch.jit.script passes over.
    r"ignore:The TorchScript type system doesn't support instance-level annotations.*:UserWarning",
    # torch's own opcheck, from 2.14 on, looks at .grad of what it computed from its leaves.
    r"ignore:The \.grad attribute of a Tensor that is not a leaf Tensor.*:UserWarning",
    # lightning 2.6 uses a spelling that torch's pytree deprecates.
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated.*:FutureWarning",
]

TINY = {
    "allegro": {
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "allegro_mlp_hidden_layers_width": 8,
    },
    "nequip": {
        "l_max": 1,
        "num_layers": 2,
        "num_features": 4,
        "parity": False,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 8,
    },
    "mace": {
        "hidden_irreps": "4x0e + 4x1o",
        "num_interactions": 2,
        "max_ell": 2,
        "correlation": 2,
        "MLP_irreps": "4x0e",
        "radial_MLP": [8],
    },
}
"""Hyperparameters of models small enough to be built, scripted and run in a second or two."""


def pytest_configure(config: pytest.Config) -> None:
    # Before any test loads torch: one thread per process, whatever the number of pytest workers.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # What AOTInductor writes between its kernels, which is most of a small model's file.
    os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
    for line in DEPENDENCY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def ag_frames(tmp_path_factory) -> list[Atoms]:
    """Eight labelled structures of silver with a vacancy: four at 300 K, four at 900 K."""
    from kan_md.data.ag_vacancy import make_ag_vacancy

    def write(path: Path) -> None:
        path.write_bytes(pickle.dumps(make_ag_vacancy(8, 1, temperatures=(300.0, 900.0))))

    files = SharedFiles.of_run(tmp_path_factory, "structures")
    return pickle.loads(files.get("silver with a vacancy", ".pickle", write).read_bytes())


@pytest.fixture(scope="session")
def alloy_frames() -> list[Atoms]:
    """Six rattled, strained CuAu cells of 8 to 16 atoms; energy, forces, stress by ASE's EMT."""
    rng = np.random.default_rng(0)
    frames = []
    for repeat in ((2, 1, 1), (2, 2, 1)) * 3:
        atoms = bulk("Cu", "fcc", a=3.85, cubic=True).repeat(repeat)
        atoms.symbols[::2] = "Au"
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        atoms.calc = EMT()
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def tiny_checkpoint(request, tmp_path_factory, alloy_frames) -> Callable[..., Path]:
    """Factory of model.pth files with random weights: ``tiny_checkpoint("nequip", readout=...)``.

    Keywords: ``type_names`` (default ``("Ag",)``; ``("Cu", "Au")`` matches ``alloy_frames``),
    ``r_max``, ``model_dtype`` (default float64), ``seed``, ``readout``, and the backbone's own
    hyperparameters. Equal calls return the same file.
    """
    files = SharedFiles.of_run(tmp_path_factory, "checkpoints")

    def make(backbone: str = "allegro", **keywords) -> Path:
        def write(path: Path) -> None:
            frames = alloy_frames
            if not {"Cu", "Au"} <= set(keywords.get("type_names", ("Ag",))):  # silver takes LAMMPS
                frames = [*request.getfixturevalue("ag_frames"), *alloy_frames]
            _write_checkpoint(path, backbone, frames, **keywords)

        return files.get([backbone, keywords], ".pth", write)

    return make


def _write_checkpoint(path: Path, backbone: str, frames: list[Atoms], **keywords) -> None:
    from kan_md.backbones import build_model
    from kan_md.contract import UNITS
    from kan_md.model.checkpoint import Checkpoint, save_checkpoint
    from kan_md.model.reference import make_reference_frames

    names = list(keywords.get("type_names", ("Ag",)))
    arguments = {
        "seed": 0,
        "model_dtype": "float64",
        "r_max": 4.0,
        "readout": {},
        "per_type_energy_shifts": {name: -1.0 - index for index, name in enumerate(names)},
        "per_type_energy_scales": 1.0,
        "avg_num_neighbors": 18.0,
        **TINY[backbone],
        **keywords,
        "type_names": names,
    }
    model = build_model(backbone, **arguments)
    known = [atoms for atoms in frames if set(atoms.symbols) <= set(names)]
    save_checkpoint(
        Checkpoint(
            backbone=backbone,
            config={"model": arguments},
            type_names=names,
            r_max=arguments["r_max"],
            state_dict=model.state_dict(),
            statistics={},
            units=dict(UNITS),
            reference_frames=make_reference_frames(model, known[:2]),
            training_summary={},
        ),
        path,
    )


@pytest.fixture(scope="session")
def deployed(tmp_path_factory, tiny_checkpoint) -> Callable[..., Path]:
    """Factory of deployed files: ``deployed("allegro", readout=..., deploy={"passes": "none"})``.

    ``deploy`` goes to ``kan_md_deploy.deploy``, everything else to ``tiny_checkpoint``. Files are
    portable, and exact in float64, unless it says otherwise.
    """
    files = SharedFiles.of_run(tmp_path_factory, "deployed")

    def make(backbone: str = "allegro", *, deploy: dict | None = None, **keywords) -> Path:
        from kan_md_deploy import deploy as deploy_model

        dtype = (deploy or {}).get("dtype") or keywords.get("model_dtype", "float64")
        exact = {"bound": 0.0} if dtype == "float64" else {}
        options = {"operators": "portable"} | exact | (deploy or {})
        suffix = ".pt2" if options.get("backend") == "aotinductor" else ".pth"

        def write(path: Path) -> None:
            deploy_model(tiny_checkpoint(backbone, **keywords), path, **options)

        return files.get([backbone, options, keywords], f".deployed{suffix}", write)

    return make


@pytest.fixture(scope="session")
def emulated_device() -> Path:
    """Library of an accelerator in host memory; for processes of their own, not for pytest's."""
    library = build_emulated_device()
    if library is None:
        pytest.skip("this torch captures graphs of CUDA only")
    return library


@pytest.fixture(scope="session")
def failing_new(tmp_path_factory) -> Path:
    """Library that takes memory away from threads (tests/cpp/failing_new.cpp), for LD_PRELOAD."""
    from kan_md.builds.toolchain import find_compiler

    library = tmp_path_factory.mktemp("failing_new") / "libfailing_new.so"
    source = ROOT / "tests" / "cpp" / "failing_new.cpp"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command = [find_compiler(), *flags, str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="session")
def first_principles_data() -> Path:
    """Folder of the first-principles sets; skips where it is absent."""
    folder = Path(os.environ.get("KAN_MD_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"first-principles data sets not found in {folder}; set KAN_MD_DATA")
    return folder
