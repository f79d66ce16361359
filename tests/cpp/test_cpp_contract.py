"""The C++ side repeats the contract's names; here they are held together."""

import re
from dataclasses import fields
from importlib.resources import files

from kan_md import contract

HEADER = (files("kan_md_pair_styles") / "core" / "contract.h").read_text()
SOURCE = (files("kan_md_pair_styles") / "core" / "manifest.cpp").read_text()


def names_of(array: str) -> tuple[str, ...]:
    block = re.search(rf"{array} = \{{(.*?)\}};", HEADER, re.S)
    assert block, array
    return tuple(re.findall(r'"(\w+)"', re.sub(r"//.*", "", block[1])))


def test_version_and_key():
    assert f"int version = {contract.CONTRACT_VERSION};" in HEADER
    assert f"int format_version = {contract.FORMAT_VERSION};" in HEADER
    assert f'manifest_key = "{contract.MANIFEST_KEY}"' in HEADER


def test_fields_backbones_and_backends():
    assert names_of("input_fields") == contract.INPUT_FIELDS
    assert names_of("output_fields") == contract.OUTPUT_FIELDS
    assert names_of("backbones") == contract.BACKBONES
    assert names_of("backends") == contract.BACKENDS


def test_manifest_keys_that_are_read_here_are_written_there():
    keys = names_of("manifest_keys")
    assert len(set(keys)) == len(keys)
    assert set(keys) <= {f.name for f in fields(contract.Manifest)}
    read = set(re.findall(r'fields, "(\w+)"|fields\.at\("(\w+)"\)', SOURCE))
    optional = {"format_version", "operators", "contract_version"}
    assert {name for pair in read for name in pair if name} - optional == set(keys)
