# make run | demo | test | test-all | lint | bench | bench-quick | lock | translations | screenshots
#
# run       the embedded server and its lab, on http://127.0.0.1:8080; LAB=0 runs no lab (.env.example)
# demo      an invented year of certificates, in .demo, which each start makes again
# test      the tests that are not marked slow; ARGS="tests/keystore -k rotation" selects tests
# test-all  the tests that are marked slow: the rest of the suite; ARGS as above
# lint      all checks that do not run the code
# bench     the measurements of docs/performance.md, and writes them there; ARGS="--rows idle,create"
#           measures some rows again. bench-quick does less of everything, and prints the table
# lock      write requirements/*.txt again from pyproject.toml, and those of the agent
# translations  find new sentences and texts, and compile the catalogs, with Debian's package gettext
# screenshots  take docs/screenshots/ from a demo, with Debian's packages chromium and fonts-noto-cjk
#
# The environments .venv and .venv-lab are created when they are missing. They are filled again when
# a lock file has changed.

PYTHON ?= python3
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --generate-hashes
OFF := 0 no false off

ifeq ($(filter $(LAB),$(OFF)),)
LAB_ENV := .venv-lab/.installed
endif

# Tests also wait for servers, so three processes keep two cores busy.
PROCESSES = $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN) / 2)
TEST = $(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal
ON_POSTGRES := --ds tests.settings_postgres

.PHONY: run demo test test-all lint bench bench-quick lock translations screenshots lab
.DEFAULT_GOAL := run

run: .venv/.run $(LAB_ENV)
	@exec $(BIN)/python manage.py up

demo: .venv/.run
	@rm -rf .demo
	@DEMO=1 DATA_DIR=.demo exec $(BIN)/python manage.py up

# Tests start many processes. Without bytecode on the disk each compiles the same modules.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: .venv/.dev .venv-lab/.installed
	$(TEST) -m "not slow" $(ARGS)
	$(TEST) $(ON_POSTGRES) -m "postgres and not slow" $(ARGS)

test-all: .venv/.dev .venv-lab/.installed
	$(TEST) -m slow $(ARGS)
	$(TEST) $(ON_POSTGRES) -m "postgres and slow" $(ARGS)

lint: export DJANGO_SETTINGS_MODULE = tests.settings
lint: export DATABASE_URL = sqlite://:memory:
lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.prose
	$(BIN)/codespell
	$(BIN)/python manage.py makemigrations --check --dry-run
	@if [ -e docs/reference/openapi.yaml ]; then \
	  $(BIN)/python manage.py spectacular | diff docs/reference/openapi.yaml - \
	  || { echo "docs/reference/openapi.yaml is not what the code offers: manage.py spectacular writes it."; exit 1; }; fi

bench: .venv/.dev
	@exec $(BIN)/python -m benchmarks $(ARGS)

bench-quick: .venv/.dev
	@exec $(BIN)/python -m benchmarks --quick $(ARGS)

lock: .venv/.dev
	$(LOCK) pyproject.toml -o requirements/run.txt
	$(LOCK) pyproject.toml --extra aws --constraint requirements/run.txt -o requirements/aws.txt
	$(LOCK) pyproject.toml --extra hsm --constraint requirements/run.txt -o requirements/hsm.txt
	$(LOCK) pyproject.toml --extra dev --constraint requirements/run.txt -o requirements/dev.txt
	$(LOCK) requirements/lab.in -o requirements/lab.txt
	$(LOCK) requirements/uv.in -o requirements/uv.txt
	$(LOCK) agent/pyproject.toml --constraint requirements/run.txt -o agent/requirements/run.txt

translations: .venv/.dev
	$(BIN)/django-admin makemessages --all --no-location --no-wrap --no-obsolete \
	  --ignore agent --ignore benchmarks --ignore lab --ignore tests
	$(BIN)/django-admin compilemessages --ignore '.venv*'

screenshots: .venv/.dev
	@$(BIN)/python -m tests.screenshots

lab: .venv-lab/.installed

# --- The environments ---

# $(call install,ENVIRONMENT,LOCK): install by hash, with uv if it runs here, or else with pip
define install
@echo "Installing $(2) into $(1)"
@$(BIN)/python -m uv pip install -q --compile-bytecode --require-hashes --python $(1)/bin/python -r $(2) \
  || $(BIN)/python -m pip --python $(1)/bin/python install -q --require-hashes -r $(2)
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "certctrl needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: install the package python3-venv."; exit 1; }
	@$(PYTHON) -m venv --clear .venv

.venv/.uv: requirements/uv.txt | $(BIN)/python
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt || echo "uv is not to be had; pip does its work."
	@touch $@

.venv/.run: requirements/run.txt .venv/.uv
	$(call install,.venv,requirements/run.txt)
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.uv
	$(call install,.venv,requirements/dev.txt)
	@touch .venv/.run $@

.venv-lab/.installed: requirements/lab.txt .venv/.uv
	@$(PYTHON) -m venv --clear --without-pip .venv-lab
	$(call install,.venv-lab,requirements/lab.txt)
	@touch $@
