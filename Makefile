# demo, test and lint each make the environment (.venv) when it is missing or when what it is made from has changed.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Nothing here needs a model hub. Two test workers on one thread each are faster than one worker on two.
export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1

.PHONY: demo test lint
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/couple image "a pink star" "a blue moon" --seed 10 --out out/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
