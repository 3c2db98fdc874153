# Two commands for a fresh machine with Python 3.11: `make report` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: report test lint lab demo clean

report: $(VENV)/.installed  ## run the five notebooks headless on the shipped model; prints where the reports are
	$(BIN)/python -m neoxlib report --all

test: $(VENV)/.installed lint  ## lint code and notebooks, run all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .

lab: $(VENV)/.installed  ## open the workbook in JupyterLab, on this machine only
	$(BIN)/jupyter lab --ip=127.0.0.1 notebooks

demo: $(VENV)/.installed  ## train the shipped model and write its exam anew
	$(BIN)/python -m neoxlib.demo.make

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Python 3.11 is needed, $(PYTHON) is another: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

clean:  ## remove the environment; runs in outputs/ stay
	rm -rf $(VENV)
