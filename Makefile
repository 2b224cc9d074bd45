# Everything runs in .venv, which is made when it is missing and brought up to date when
# pyproject.toml changes; installing prints errors alone. `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq
DEMO := runs/demo

# The first interpreter that really starts (version managers leave shims that do not) and is new
# enough.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$p && break; done)

# An open range such as torch>=2.6 takes the newest build of the index, on Linux one with several
# GB of CUDA libraries. With an exact version pip prefers a local CPU build (2.13.0+cpu) wherever
# its configuration offers one (a find-links folder, PyTorch's CPU index as extra index). The open
# range is the fallback where that version does not exist. Any other requirement:
#   make demo TORCH="torch==2.8.0"
TORCH ?= torch==2.13.0
HAVE_TORCH := import sys, torch; \
	sys.exit(tuple(int(x) for x in torch.__version__.split(".")[:2]) < (2, 6))

# Test processes side by side must not also share each other's cores.
TEST_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: demo duration reproduce certificates test test-slow test-processors lint bench clean help

demo: duration $(VENV)/.installed  ## Train two crosscoders on the bundled model and compare them (offline)
	@HF_HUB_OFFLINE=1 $(BIN)/crossproof demo --out $(DEMO)
	@echo "Report: $(CURDIR)/$(DEMO)/report.html"
	@echo "Look at its latents: $(BIN)/crossproof explore $(DEMO)"

duration:
	@echo "Three to five minutes on two idle cores, after installing where $(VENV) is missing (one to three)."

reproduce: $(VENV)/.installed-paper  ## Every figure at its published size (hours; offline)
	HF_HUB_OFFLINE=1 $(BIN)/python -m paper all

test: lint  ## Linter, type checker and the quick tests (two processes of one thread each)
	$(TEST_THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-dev  ## Slow tests, fresh examples for property tests, plain CPU code
	$(TEST_THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or hypothesis" \
		--hypothesis-profile fresh
	$(BIN)/python -m tools.processors --only aten-default -- -n 2 --dist worksteal

test-processors: $(VENV)/.installed-dev  ## The quick tests as if on a dozen other processors (hours)
	$(BIN)/python -m tools.processors -- -n 2 --dist worksteal

lint: $(VENV)/.installed-dev  ## ruff, the house's rules (layers, nothing unreachable) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.layers
	$(BIN)/python -m tools.unreachable
	$(BIN)/python -m mypy

bench: $(VENV)/.installed-dev  ## Every benchmark, one after another
	@set -e; for bench in $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py))); do \
		echo "$$bench"; $(BIN)/python "$$bench"; done

certificates: $(VENV)/.installed  ## Verify every example certificate
	$(BIN)/crossproof verify $(dir $(wildcard examples/certificates/*/certificate.json))

.PHONY: docs explorer tutorials locks mutants release

explorer:  ## Build the explorer's pages into the package (needs node and npm, and the network once)
	cd explorer && npm ci --no-audit --no-fund && npm run build

docs: $(VENV)/.installed-docs  ## The documentation site into site/, links checked (offline)
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Site: $(CURDIR)/site/index.html"

tutorials: $(VENV)/.installed  ## Run the tutorials and store what they print (offline)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tools.tutorials

LOCK = uv pip compile --quiet pyproject.toml --universal --python-version 3.11 \
	--extra arb --extra embedding --extra explore --extra fast --extra gguf --extra llm \
	--extra pandas --extra shapley --no-header --no-annotate

# PyTorch's wheels name their own CUDA libraries and Triton, by exact version: a lock file that
# names them too fits one PyTorch alone, and none that is built for CPUs.
OF_TORCH := /^(nvidia|cuda|triton)[a-z0-9-]*==/d

locks:  ## requirements/: the lowest and the newest versions that work (needs uv)
	@for each in lowest:lowest-direct newest:highest; do \
		name=$${each%%:*}; { \
		echo "# The $$name versions that pyproject.toml allows, of crossproof and its extras: \`make locks\`."; \
		$(LOCK) --resolution $${each##*:} | sed -E '$(OF_TORCH)'; } > requirements/$$name.txt; done

mutants: $(VENV)/.installed-dev  ## Mutants of MODULE=src/crossproof/... that no test notices; LIMIT=50 draws, TABLE=1 counts
	$(TEST_THREADS) $(BIN)/python -m tools.mutants $(MODULE) --limit $(or $(LIMIT),0) \
		--record runs/mutants.jsonl --listed docs/mutants.md $(if $(TABLE),--table)

release: $(VENV)/.installed-dev  ## Build sdist and wheel into dist/, if the wheel works alone
	$(BIN)/python -m tools.release --torch "$(TORCH)"

clean:  ## Remove .venv, caches and builds (runs/ stays)
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests paper models tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found: install one, or name it with make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c '$(HAVE_TORCH)' 2>/dev/null || { echo "Installing PyTorch"; $(INSTALL) "$(TORCH)"; } \
		|| { echo "Installing another PyTorch instead"; $(INSTALL) "torch>=2.6"; }
	@echo "Installing crossproof and what it needs"
	@$(INSTALL) --editable ".[arb,explore,fast]"
	@touch $@

$(VENV)/.installed-paper: $(VENV)/.installed
	@$(INSTALL) --editable ".[paper]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(INSTALL) --editable ".[docs]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --editable ".[dev,arb,fast]"
	@touch $@
