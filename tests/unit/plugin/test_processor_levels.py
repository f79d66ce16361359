"""Levels of processors by their flags and by name."""

import pytest

from kan_md.builds import levels
from kan_md.builds.kernels import CPU_VARIABLE, built_levels, try_kernels
from kan_md.builds.levels import X86_64, native_levels, parse_levels
from kan_md.errors import KanMdError
from kan_md.ops import is_built
from kan_md.ops.library import library_path

# As Linux lists them, what no level asks for left out.
WESTMERE = "fpu sse sse2 ht pni ssse3 cx16 sse4_1 sse4_2 popcnt aes lahf_lm"
HASWELL = f"{WESTMERE} fma movbe xsave avx f16c abm bmi1 avx2 bmi2"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512pf avx512er avx512cd"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Lets the processor have these flags."""
    monkeypatch.setattr(levels.platform, "machine", lambda: "x86_64")

    def set_flags(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
        monkeypatch.setattr(levels, "_FLAGS_OF_PROCESSOR", path)

    return set_flags


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (WESTMERE, "x86-64-v2"),
        (HASWELL, "x86-64-v3"),
        (HASWELL.replace(" bmi2", ""), "x86-64-v2"),
        (KNIGHTS_LANDING, "x86-64-v3"),
        (SKYLAKE, "x86-64-v4"),
    ],
)
def test_a_processor_has_the_best_level_of_which_it_has_all(flags, level, processor):
    processor(flags)
    assert native_levels() == (level,) == parse_levels("native")


def test_what_is_not_known_is_built_for_all(processor, monkeypatch, tmp_path):
    processor("fpu sse sse2")  # whose kernels will be refused when they are loaded
    assert native_levels() == X86_64
    monkeypatch.setattr(levels, "_FLAGS_OF_PROCESSOR", tmp_path / "none")
    assert native_levels() == X86_64


def test_another_architecture_has_one_level(monkeypatch):
    monkeypatch.setattr(levels.platform, "machine", lambda: "aarch64")
    assert native_levels() == parse_levels("all") == ("aarch64",)


def test_the_loader_takes_the_level_that_the_build_is_made_for(monkeypatch):
    """Two readings of the processor: the flags that Linux lists, and the compiler's in C++."""
    if not is_built():
        pytest.skip("needs the operators: kan-md build")
    monkeypatch.delenv(CPU_VARIABLE, raising=False)
    build = library_path().parent
    (native,) = native_levels()
    if native not in built_levels(build):
        pytest.skip(f"the build has no kernels of this processor's level, {native}")
    assert try_kernels(build) == native


@pytest.mark.parametrize("text", ["x86-64-v2 x86-64-v4", "x86-64-v4,x86-64-v2, x86-64-v4"])
def test_names_are_put_in_order(text, processor):
    assert parse_levels(text) == ("x86-64-v4", "x86-64-v2")


def test_the_own_level_may_be_one_of_several(processor):
    processor(HASWELL)
    assert parse_levels("x86-64-v2 native") == ("x86-64-v3", "x86-64-v2")
    assert parse_levels("native,x86-64-v3") == ("x86-64-v3",)


@pytest.mark.parametrize("text", ["x86-64-v9", "native x86-64", ",", "avx2"])
def test_a_level_that_is_none_is_told(text, processor):
    with pytest.raises(KanMdError, match=r"allowed: native, all, x86-64-v4, x86-64-v3, x86-64-v2;"):
        parse_levels(text)
