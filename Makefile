# `make serve` and `make test` work on a fresh clone; everything else is a part of the two.

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: serve test test-third-party check audit bench docs sbom setup tools weights

serve: weights  ## serve on 127.0.0.1:8000
	@exec galenic serve

test: check  ## the whole suite, as CI runs it
	python -m pytest

test-third-party: setup  ## other people's tests of what we serve
	@deploy/setup-third-party
	python -m pytest -m third_party tests/third_party

check: tools  ## lint, format, types, known holes in what is installed (said if it cannot look)
	ruff check
	ruff format --check
	mypy
	@deploy/audit || [ $$? -eq 3 ]

audit: tools  ## known holes in what is installed; fails if it cannot look
	@deploy/audit

sbom: tools  ## what is installed, and under which licences, into build/
	@deploy/sbom

bench: weights  ## how fast this machine answers
	galenic bench

docs: tools  ## the documentation, into site/
	cd docs && NO_MKDOCS_2_WARNING=1 ../.venv-tools/bin/mkdocs build --strict --quiet
	@echo "galenic: open site/index.html"

weights: setup
	@python -c 'from galenic_adapters.backbone.weights import ensure; import os; ensure(os.environ.get("GALENIC_BACKBONE"))'

tools: setup
	@deploy/setup-tools

setup:
	@deploy/setup
