# Needs Python 3.11 and make, nothing else. Everything is installed into .venv from requirements.lock.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TASK ?= phone_actions
PROFILE ?= quick
LINKED := $(CURDIR)/build/linked

# without bytecode every start would compile pydantic and torch anew, and there are many starts in a test run
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install run test check linked lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: install
	$(BIN)/workbench run $(TASK) --profile $(PROFILE)

test: install
	$(BIN)/workbench models fetch smollm2-135m-instruct
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory linked
	cd $(LINKED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p workbench
	cd $(LINKED) && PYTHONPATH=$(LINKED) $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

# tasks/ and validators/ are installed as workbench.tasks and workbench.validators: the checkers need to see them there
linked:
	rm -rf $(LINKED) && mkdir -p $(LINKED)/workbench
	ln -s $(CURDIR)/workbench/* $(CURDIR)/tasks $(CURDIR)/validators $(LINKED)/workbench/

lock:
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]'
	.lock-venv/bin/python -m pip freeze --exclude-editable --disable-pip-version-check | grep -v '^distillation-workbench' \
		| sed 's/+cpu//; s# @ file://.*torch-\([0-9.]*\).*#==\1#' > requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) .lock-venv build *.egg-info
