# Everything runs in .venv, or in .venv-tools for `docs` and `wheel`. Both are made on first use and brought up to
# date when a file below changes.
PYTHON ?= python3
VENV := .venv

TOOLS := .venv-tools

.PHONY: depth waterbirds iwildcam test lint docs notebooks wheel clean

depth waterbirds iwildcam: $(VENV)/.installed-base
	$(VENV)/bin/python -m gap_jax.experiments.$@ $(ARGS)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The site, in the folder site/. A warning is an error; the pages do not need a network.
docs: $(TOOLS)/.installed
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/python -m mkdocs build --strict
	$(TOOLS)/bin/python docs/check_links.py site

# The notebooks of the site, in place. Their outputs are kept in the repository.
notebooks: $(VENV)/.installed-test
	$(VENV)/bin/python docs/run_notebooks.py $(ARGS)

wheel: $(TOOLS)/.installed
	$(TOOLS)/bin/python -m build

# The compiler of TPUs, for tests/planning. If it were in $(VENV), every process would look for TPUs first.
.libtpu: $(VENV)/.installed-test
	$(VENV)/bin/python -m pip install --upgrade --no-deps -c constraints.txt --target $@ libtpu
	touch $@

clean:
	rm -rf $(VENV) $(TOOLS) .libtpu build dist site *.egg-info .jax_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .installed-X: gap_jax with its extra X (base: none), at the pinned versions.
$(VENV)/.installed-%: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.$(if $(filter-out base,$*),[$*])'
	touch $@

# The tools that make the site and the wheel; they read gap_jax and do not import it.
$(TOOLS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -r docs/requirements.txt
	touch $@
