# Everything runs in .venv, which is made on first use and brought up to date when a file below changes.
PYTHON ?= python3
VENV := .venv

.PHONY: depth waterbirds iwildcam test lint clean

depth waterbirds iwildcam: $(VENV)/.installed-base
	$(VENV)/bin/python -m gap_jax.experiments.$@ $(ARGS)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .jax_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .installed-X: gap_jax with its extra X (base: none), at the pinned versions.
$(VENV)/.installed-%: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.$(if $(filter-out base,$*),[$*])'
	touch $@
