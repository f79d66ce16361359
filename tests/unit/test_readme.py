"""What the README shows must work."""

import re
from pathlib import Path

import yaml

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_configuration_is_valid_and_short():
    from kan_md.config import parse_config

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    config = parse_config(yaml.safe_load(text))
    assert config.readout.kind == "kan"
    assert len(text.splitlines()) <= 20


def test_every_command_exists():
    from kan_md.cli import main

    shown = set(re.findall(r"kan-md ([a-z]+)\b", README)) - {"is"}
    assert {"train", "deploy", "lmp", "benchmark"} <= shown
    for command in sorted(shown):
        assert (Path(main.__file__).parent / f"{command}.py").is_file(), command


def test_every_link_and_make_target_exists():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert f"\n{target}:" in makefile, target
