# Two commands for a fresh machine with Python 3.11: `make report` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP := -m pip install --disable-pip-version-check
PEERS := .venv-peers
NPU := .venv-npu
BIN := $(VENV)/bin

.PHONY: report test stop-ranks test-align verify-npu lint lab quality demo clean
.PHONY: bench-peers bench-docs bench-readme bench-20b bench-load bench-exam gate-table

report: $(VENV)/.installed  ## run the seven notebooks on the shipped model
	$(BIN)/python -m neoxlib report --all

test: $(VENV)/.installed lint  ## lint code and notebooks, run all tests
	$(BIN)/python -m pytest

stop-ranks: $(VENV)/.installed  ## ranks stopped at random points: no answer may change
	$(BIN)/python -m tests.stopped_ranks $(ARGS)

test-align: $(VENV)/.installed  ## planted faults: each found at its step, pass and rank
	$(BIN)/python -m tests.planted_faults

verify-npu: $(NPU)/.installed  ## the NPU path against the vendor's torch-npu wheel; needs no NPU
	$(NPU)/bin/python -m tests.npu_wheel.verify $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

lab: $(VENV)/.installed  ## open the workbook in JupyterLab, on this machine only
	$(BIN)/jupyter lab --ip=127.0.0.1 notebooks

quality: $(VENV)/.installed  ## the cost of each dtype and quantization, into outputs/quality.md
	$(BIN)/python -m neoxlib quality $(ARGS)

demo: $(VENV)/.installed  ## train the shipped model and write its exam anew
	$(BIN)/python -m neoxlib.demo.making.make

# neoxlib beside transformers, CTranslate2 and llama.cpp, into outputs/bench
bench-peers: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python -m benchmarks.peers $(ARGS)

# put the tables of the benchmarks and `make quality` into docs/
bench-docs bench-readme: $(VENV)/.installed
	$(BIN)/python -m benchmarks.documents

# write, load, decode and cut GPT-NeoX-20B's shape; needs 46 GB of disk, leaves nothing there
bench-20b: $(VENV)/.installed
	$(BIN)/python -m benchmarks.big $(ARGS)

bench-load: $(VENV)/.installed  ## shard beside cp, load beside from_pretrained
	$(BIN)/python -m benchmarks.load $(ARGS)

# questions per second beside lm-eval with transformers; needs C-Eval and MMLU (NEOXLIB_TEST_DATA)
bench-exam: $(VENV)/.installed
	$(BIN)/python -m benchmarks.exam $(ARGS)

gate-table: $(VENV)/.installed  ## how often the speed gate is wrong, over simulated and real noise
	$(BIN)/python -m benchmarks.gate
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

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed, $(PYTHON) is another: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --quiet -e ".[dev,eval]" -c constraints.txt
	touch $@

clean:  ## remove the environments; runs in outputs/ stay
	rm -rf $(VENV) $(PEERS) $(NPU)
