"""Architectures that the published timings are of, and how to have them built.

Speed does not depend on training, so the models have fresh weights; they are built and deployed by
`kan-md init` and `kan-md deploy` in processes of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import ase

from kan_md.benchmark.log import last_line
from kan_md.benchmark.machine import package_version
from kan_md.benchmark.models import Entry, deployed_entry
from kan_md.benchmark.runner import python_command
from kan_md.benchmark.structures import diamond, silver
from kan_md.errors import KanMdError

Tool = Literal["kan-md", "nequip-compile"]
NEQUIP_COMPILE = Path(__file__).with_name("nequip_compile.py")
ENERGY_SCALE = 1e-3
"""eV. Forces of fresh weights mean nothing; at this size they leave the crystal as it is, so that
every model sees the same number of edges all the time."""

ALLEGRO = {
    "backbone": "allegro",
    "r_max": 5.0,
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 64,
    "num_tensor_features": 16,
    "per_type_energy_scales": ENERGY_SCALE,
}
NEQUIP = {
    "backbone": "nequip",
    "r_max": 5.0,
    "l_max": 2,
    "num_layers": 3,
    "num_features": 32,
    "parity": False,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 64,
    "per_type_energy_scales": ENERGY_SCALE,
}
MACE = {
    "backbone": "mace",
    "r_max": 5.0,
    "hidden_irreps": "64x0e + 64x1o",
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "MLP_irreps": "16x0e",
    "per_type_energy_scales": ENERGY_SCALE,
}
READOUTS: dict[str, dict] = {
    "linear": {"kind": "linear"},
    "MLP": {"kind": "mlp"},
    "KAN Gaussian": {"kind": "kan", "basis": "gaussian"},
    "KAN B-spline": {"kind": "kan", "basis": "bspline"},
    "KAN Fourier": {"kind": "kan", "basis": "fourier"},
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to time.

    Attributes:
        label: name in tables.
        config: content of the YAML file for ``kan-md init``.
        tool: what compiles the checkpoint.
        deploy: options of ``kan-md deploy``.
        element: Ag (fcc) or C (diamond), which it is built for.
        seed: of the weights.
    """

    label: str
    config: dict
    tool: Tool = "kan-md"
    deploy: tuple[str, ...] = ()
    element: str = "Ag"
    seed: int = 1

    def structure(self) -> ase.Atoms:
        """Small structure that decides the mean number of neighbours and checks the deployment."""
        return silver() if self.element == "Ag" else diamond()


def build(model: Model, folder: Path, *, threads: int = 1) -> Entry:
    """Build and compile a model, or take it from an earlier call with the same sources.

    Args:
        model: what to build.
        folder: keeps built models.
        threads: that it will run on, which AOTInductor wants to know.

    Raises:
        KanMdError: a step failed; the message carries its own.
    """
    key = json.dumps([model.config, model.element, model.seed], sort_keys=True)
    base = folder / _digest(key + _sources_digest())
    base.mkdir(parents=True, exist_ok=True)
    checkpoint = base / "model.pth"
    if not checkpoint.exists():
        config, structure = base / "model.yaml", base / "structure.xyz"
        config.write_text(json.dumps(model.config, indent=1))  # JSON is YAML
        model.structure().write(structure)
        run_kan_md(
            *("init", config, "--structure", structure, "--seed", model.seed, "-o", checkpoint),
            what=f"building {model.label}",
        )
    if model.tool == "nequip-compile":
        # Upstream's compiler knows nothing of our sources, and takes a minute.
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
        versions = "-".join(package_version(name) for name in ("torch", "nequip", "nequip-allegro"))
        file = folder / f"{digest}-{_digest(versions)}-{threads}-threads.nequip.pt2"
        if not file.exists():
            _compile_upstream(model, base, file, threads=threads)
        backbone = model.config["backbone"]
        return replace(deployed_entry(str(file), pair_style=backbone), label=model.label)
    suffix = f"-{threads}-threads.pt2" if "aotinductor" in model.deploy else ".pth"
    file = base / f"{_digest(' '.join(model.deploy))}.deployed{suffix}"
    if not file.exists():
        run_kan_md(
            *("deploy", checkpoint, "-o", file, *model.deploy),
            what=f"deploying {model.label}",
            threads=threads,
        )
    return replace(deployed_entry(str(file)), label=model.label)


def _compile_upstream(model: Model, base: Path, file: Path, *, threads: int) -> None:
    """Run nequip-compile; its file appears whole or not at all."""
    part = file.with_name("part-" + file.name)
    text = run_program(
        *(NEQUIP_COMPILE, base / "model.pth", base / "structure.xyz", part),
        what=f"nequip-compile of {model.label}",
        threads=threads,
    )
    if last_line(text) != str(threads):
        raise KanMdError(
            f"nequip-compile of {model.label} must be for {threads} threads, "
            f"got {last_line(text)}; set OMP_NUM_THREADS"
        )
    part.replace(file)


def run_kan_md(*arguments: object, what: str, threads: int | None = None) -> str:
    """Run the command line in a process of its own and return what it prints; see run_program."""
    return _run([sys.executable, "-m", "kan_md", *map(str, arguments)], what=what, threads=threads)


def run_program(program: Path, *arguments: object, what: str, threads: int | None = None) -> str:
    """Run a Python file in a process of its own and return what it prints.

    Raises:
        KanMdError: it failed; the message carries the last line of its output.
    """
    return _run(python_command(program, *arguments), what=what, threads=threads)


def _run(command: list[str], *, what: str, threads: int | None) -> str:
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise KanMdError(f"{what} failed: {last_line(done.stderr) or last_line(done.stdout)}")
    return done.stdout


def variants(
    base: dict,
    *,
    readouts: dict[str, dict],
    deploy: tuple[str, ...] = (),
    element: str = "Ag",
    label: Callable[[str], str] = str,
) -> list[Model]:
    """One model per readout of an architecture."""
    return [
        Model(
            label=label(name),
            config={**base, "readout": readout},
            deploy=deploy,
            element=element,
        )
        for name, readout in readouts.items()
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sources_digest() -> str:
    """Digest of everything a deployed file depends on: our sources and torch's version."""
    total = hashlib.sha256(package_version("torch").encode())
    for package in ("kan_md", "kan_md_deploy"):
        for root in find_spec(package).submodule_search_locations:
            for path in sorted(Path(root).rglob("*")):
                parts = path.relative_to(root).parts
                if path.suffix in (".py", ".cpp", ".h") and parts[0] not in _UNRELATED:
                    total.update(path.read_bytes())
    return total.hexdigest()


_UNRELATED = (
    *("benchmark", "cli", "lammps", "train", "evaluate", "config", "data"),
    *("figures.py", "files.py", "upstream_file.py"),
)
