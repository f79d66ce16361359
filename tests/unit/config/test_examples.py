"""Every example configuration is valid, and its model can be built."""

from importlib.resources import files

import pytest

from kan_md.backbones.build import adapter_of, build_model
from kan_md.config import load_config

EXAMPLES = sorted(
    path for path in (files("kan_md.config") / "examples").iterdir() if path.name.endswith(".yaml")
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_valid_and_builds(path):
    config = load_config(path)
    names = config.model.type_names or ["Ag"]
    arguments = dict(config.model.hyperparameters)
    if config.targets:
        arguments["tensors"] = [spec.model_dump(exclude={"weight"}) for spec in config.targets]
    assert "avg_num_neighbors" in adapter_of(config.model.backbone).hyperparameters()
    model = build_model(
        config.model.backbone,
        seed=0,
        model_dtype=config.model.dtype,
        type_names=names,
        r_max=config.model.r_max,
        readout=config.readout.architecture,
        avg_num_neighbors=20.0,
        **arguments,
    )
    assert list(model.type_names) == list(names)
