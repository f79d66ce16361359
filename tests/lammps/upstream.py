"""Files as upstream's nequip-compile makes them, of small models by upstream's own builders."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from shared_files import SharedFiles
from structures import ELEMENTS, R_MAX, rattled

from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.builds.cache import cache_dir

ROOT = Path(__file__).parents[2]
COMPILE = ROOT / "results" / "experiments" / "nequip_compile.py"
COMMON = {
    "seed": 11,
    "model_dtype": "float64",
    "type_names": list(ELEMENTS),
    "r_max": R_MAX,
    "l_max": 1,
    "avg_num_neighbors": 18.0,
    "per_type_energy_scales": 1.0,
    "per_type_energy_shifts": {"Cu": -1.0, "Au": -2.0},
}
ALLEGRO = {
    "num_layers": 1,
    "num_scalar_features": 8,
    "num_tensor_features": 8,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
}
NEQUIP = {"num_layers": 2, "num_features": 8, "parity": False, "radial_mlp_width": 8}
# By centre: copper sees less far than gold, which keeps r_max.
PAIR_CUTOFFS = {"Cu": {"Cu": 3.2, "Au": 3.6}}


def build(style: str, **changes) -> torch.nn.Module:
    """An upstream model with random weights."""
    from allegro.model import AllegroModel
    from nequip.model import NequIPGNNModel

    builder, own = {"allegro": (AllegroModel, ALLEGRO), "nequip": (NequIPGNNModel, NEQUIP)}[style]
    return builder(**{**COMMON, **own, **changes}).eval()


def compile_torchscript(path: Path, style: str, **changes) -> Path:
    """What ``nequip-compile --mode torchscript`` writes where torch is older than 2.10."""
    from nequip.model.inference_models.torchscript import save_torchscript_model
    from nequip.utils.compile import conditional_torchscript_mode
    from nequip.utils.global_state import get_latest_global_state

    with nequip_settings(), conditional_torchscript_mode(True):
        model = build(style, **changes)
        metadata = {**model.metadata, **get_latest_global_state(only_metadata_related=True)}
        save_torchscript_model(
            model,
            {key: int(v) if isinstance(v, bool) else v for key, v in metadata.items()},
            str(path),
            "cpu",
        )
    return path


def aotinductor_package(style: str, **changes) -> Path:
    """What ``nequip-compile --mode aotinductor`` writes, run in a process of its own.

    It takes half a minute and depends on nothing that is tested here, so the package stays in the
    cache of the plug-in, by the versions that made it.
    """
    made_of = [
        *(f"{name} {version(name)}" for name in ("torch", "nequip", "nequip-allegro")),
        torch.backends.cpu.get_cpu_capability(),
        os.environ.get("OMP_NUM_THREADS", ""),
        *(path.read_text() for path in (Path(__file__), COMPILE)),
        [style, changes],
    ]
    return SharedFiles(cache_dir() / "upstream").get(
        made_of, ".nequip.pt2", lambda path: _compile_aotinductor(path, style, changes)
    )


def _compile_aotinductor(path: Path, style: str, changes: dict) -> None:
    subprocess.run(
        [sys.executable, __file__, style, str(path), json.dumps(changes)],
        # Allegro's export rounds some constants to float32, which upstream's own check refuses.
        env={
            **os.environ,
            "NEQUIP_FLOAT64_MODEL_TOL": "1e-5",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        },
        check=True,
        capture_output=True,
    )


def main(style: str, path: str, changes: str) -> None:
    """Compile as the project's timings of upstream do it, see there."""
    from results.experiments.nequip_compile import run_nequip_compile

    with nequip_settings():
        model = build(style, **json.loads(changes))
        run_nequip_compile(model, rattled((2, 2, 1)), Path(path), backbone=style)


if __name__ == "__main__":
    main(*sys.argv[1:])
