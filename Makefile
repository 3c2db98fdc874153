# Two commands for a fresh machine with Python 3.11: `make report` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP := -m pip install --disable-pip-version-check
PEERS := .venv-peers
NPU := .venv-npu
MSPROBE := .venv-msprobe
AUDIT := .venv-audit
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: help report test test-faults stop-ranks soak fuzz test-align verify-npu verify-msprobe lint
.PHONY: audit lab verify-hosts quality demo clean test-browser gate-table bench-first
.PHONY: gate-planted bench-peers bench-docs bench-readme bench-20b bench-load bench-exam
.PHONY: bench-align bench-encryption wheelhouse

help:  ## list the targets
	@grep -Eh '^[a-z][a-z0-9 -]*:.*##' $(MAKEFILE_LIST) | \
	  sed -E 's/^([a-z][a-z0-9 -]*):[^#]*## */\1\t/' | awk -F'\t' '{printf "make %-24s %s\n", $$1, $$2}'

report: $(VENV)/.installed  ## run the seven notebooks on the shipped model
	$(BIN)/python -m neoxlib report --all

test: $(VENV)/.installed lint  ## lint code and notebooks, run all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-faults: $(VENV)/.installed  ## real faults: each is told in time; the table of docs/reliability.md
	$(BIN)/python -m tests.faults $(ARGS)

stop-ranks: $(VENV)/.installed  ## ranks stopped at random points: no answer may change
	$(BIN)/python -m tests.stopped_ranks $(ARGS)

soak: $(VENV)/.installed  ## an hour of mixed calls, a killed exam, reports at once
	$(BIN)/python -m tests.soak $(ARGS)

test-align: $(VENV)/.installed  ## planted faults: each found at its step, pass and rank
	$(BIN)/python -m tests.planted_faults

fuzz: $(VENV)/.installed .fuzz/.installed  ## spoilt files for every reader, 10 minutes each
	PYTHONPATH=.fuzz $(BIN)/python -m tests.fuzz $(ARGS)

test-browser: $(VENV)/.installed  ## pages and JupyterLab in Chromium; pictures in outputs/browser
	$(BIN)/python -m pytest tests/browser --lab $(ARGS)

verify-npu: $(NPU)/.installed  ## the NPU path against the vendor's torch-npu wheel; needs no NPU
	$(NPU)/bin/python -m tests.npu_wheel.verify $(ARGS)

verify-msprobe: $(MSPROBE)/.installed  ## dumps both ways, with the vendor's msprobe; needs no NPU
	$(MSPROBE)/bin/python -m tests.msprobe.verify $(ARGS)

verify-hosts: $(VENV)/.installed  ## several hosts, made of namespaces for it; needs root
	$(BIN)/python -m tests.hosts.verify $(ARGS)

audit: $(VENV)/.installed $(AUDIT)/.installed  ## known holes in packages; a bill of materials
	$(AUDIT)/bin/python -m tests.audit $(BIN)/python

lint: $(VENV)/.installed  ## check the style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

lab: $(VENV)/.installed  ## open the workbook in JupyterLab, on this machine only
	$(BIN)/python -m neoxlib lab $(ARGS)

quality: $(VENV)/.installed  ## the cost of each dtype and quantization, into outputs/quality.md
	$(BIN)/python -m neoxlib quality $(ARGS)

demo: $(VENV)/.installed  ## train the shipped model and write its exam anew
	$(BIN)/python -m neoxlib.demo.making.make

bench-peers: $(VENV)/.installed $(PEERS)/.installed  ## speed beside other libraries
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-docs bench-readme: $(VENV)/.installed  ## put the tables of the benchmarks into docs/
	$(BIN)/python -m benchmarks.documents

bench-20b: $(VENV)/.installed  ## write, load, decode, cut a 20B model; 46 GB of disk for a while
	$(BIN)/python -m benchmarks.big $(ARGS)

bench-load: $(VENV)/.installed  ## shard beside cp, load beside from_pretrained
	$(BIN)/python -m benchmarks.load $(ARGS)

bench-exam: $(VENV)/.installed  ## questions a second beside lm-eval; needs NEOXLIB_TEST_DATA
	$(BIN)/python -m benchmarks.exam $(ARGS)

bench-first: $(VENV)/.installed  ## a clone's time to its first report, with a new environment
	$(BIN)/python -m benchmarks.first_report $(ARGS)

bench-align: $(VENV)/.installed  ## the cost of looking inside; needs 4 GB of disk for a while
	$(BIN)/python -m benchmarks.align $(ARGS)

bench-encryption: $(VENV)/.installed  ## what encryption between driver and ranks costs
	$(BIN)/python -m benchmarks.encryption $(ARGS)

# every package for a machine without network, into wheelhouse/: docs/ascend.md. pip reads
# "3.11" as 3.11.0, and soupsieve wants 3.11.5; PyPI's own torch for aarch64 is a CUDA build
ARCH ?= aarch64
CPU_TORCH ?= https://download.pytorch.org/whl/cpu
SDISTS := rouge_score sqlitedict word2number
WHEELS := from neoxlib.machine.versions import PYTHON_NEEDS, TODAY
wheelhouse: $(VENV)/.installed  ## every package for a machine without network
	$(BIN)/python -m pip wheel --no-deps -w wheelhouse -c constraints.txt $(SDISTS)
	$(BIN)/python -m pip download -d wheelhouse --find-links wheelhouse -c constraints.txt \
	  --only-binary :all: --platform manylinux_2_28_$(ARCH) --platform manylinux2014_$(ARCH) \
	  --python-version 3.11.5 --extra-index-url $(CPU_TORCH) pip "setuptools>=80" \
	  ".[npu,dev,eval]" \
	  $$($(BIN)/python -c "$(WHEELS); print(f'torch=={TODAY.release.torch}+cpu', PYTHON_NEEDS)")

gate-table: $(VENV)/.installed  ## how often the speed gate is wrong, over simulated and real noise
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.documents

gate-planted: $(VENV)/.installed  ## whether the speed gate finds a slowdown that is really there
	$(BIN)/python -m benchmarks.planted $(ARGS)
	$(BIN)/python -m benchmarks.documents

# llama.cpp is compiled, which takes a while
$(PEERS)/.installed: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(PEERS)/bin/python $(PIP) \
	  -r benchmarks/peers.txt -c constraints.txt
	touch $@

$(NPU)/.installed: tests/npu_wheel/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(NPU)
	$(NPU)/bin/python $(PIP) --quiet -r tests/npu_wheel/requirements.txt -c constraints.txt
	touch $@

$(MSPROBE)/.installed: tests/msprobe/requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(MSPROBE)
	$(MSPROBE)/bin/python $(PIP) --quiet -r tests/msprobe/requirements.txt -c constraints.txt
	touch $@

$(AUDIT)/.installed: tests/audit/requirements.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python $(PIP) --quiet -r tests/audit/requirements.txt
	touch $@

# atheris is only for fuzzing, and beside the project's packages not in their environment
.fuzz/.installed: tests/fuzz/requirements.txt | $(VENV)/.installed
	$(BIN)/python $(PIP) --quiet --target .fuzz -r tests/fuzz/requirements.txt
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed, $(PYTHON) is another: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --quiet -e ".[dev,eval]" -c constraints.txt
	touch $@

clean:  ## remove the environments; runs in outputs/ stay
	rm -rf $(VENV) $(PEERS) $(NPU) $(MSPROBE) $(AUDIT) .fuzz
