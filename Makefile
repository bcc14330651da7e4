# `make test` is all that a newcomer needs; it installs what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The Python that QGIS itself uses; its tests' packages go into an environment on top of it.
QGIS_PYTHON ?= /usr/bin/python3
QGIS_VENV := .venv-qgis
QGIS_STAMP := $(QGIS_VENV)/.installed

.PHONY: setup setup-qgis stage plugin demo screenshots docs test test-core test-plugin test-slow check format lock clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, found $$($(PYTHON) --version); try make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Install the venv module first: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints requirements.lock --editable '.[dev,train]'
	touch $(STAMP)

setup-qgis: $(QGIS_STAMP)

$(QGIS_STAMP): qgis-requirements.lock tools/setup_qgis.sh | $(STAMP)
	tools/setup_qgis.sh $(BIN)/uv $(QGIS_PYTHON) $(QGIS_VENV)
	touch $(QGIS_STAMP)

# What QGIS loads, in build/stage/gair.
stage: setup
	$(BIN)/python tools/stage.py

# build/gair-<version>.zip, for QGIS's "Install from ZIP" and for the plugin repository.
plugin: setup
	$(BIN)/python tools/package.py

# demo/index.html: a city of the procedural world through the plugin, scored against the truth. For a scene of
# yours: make demo SCENE=scene.tif PHOTOS=photos.csv, with MODEL and HEAD where they are not to be `demo`.
demo: setup setup-qgis plugin
	$(BIN)/python tools/demo.py --qgis-python $(QGIS_PYTHON) \
		$(if $(SCENE),--scene "$(SCENE)") $(if $(PHOTOS),--photos "$(PHOTOS)") \
		$(if $(MODEL),--model "$(MODEL)") $(if $(HEAD),--head "$(HEAD)")

# The pictures of docs/, taken of a QGIS window with the made-up scene.
screenshots: setup setup-qgis
	$(BIN)/python tools/screenshots.py

# The guide as HTML: build/docs/index.html. A warning, such as a link to nowhere, is an error.
docs: setup
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs

test: test-core test-plugin

# One thread for each of the two processes: more of them than cores wait for each other most of the time.
test-core test-plugin: export OMP_NUM_THREADS = 1

test-core: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-plugin: setup setup-qgis
	$(QGIS_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/plugin

test-slow: setup setup-qgis
	$(BIN)/python -m pytest -m slow || test $$? = 5 # no slow tests are not a failure
	$(QGIS_VENV)/bin/python -m pytest -m slow tests/plugin

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive gair_core qgis_plugin
	git ls-files -z gair_core qgis_plugin metadata.txt pyproject.toml README.md LICENSE requirements.lock | xargs -0 $(BIN)/detect-secrets-hook

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One lock for all supported Python versions and platforms.
lock:
	$(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url \
		--extra dev --extra train --python-version 3.10 pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url \
		--python-version 3.9 qgis-requirements.in --output-file qgis-requirements.lock

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
