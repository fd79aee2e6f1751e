# Everything lives in .venv beside this file. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: help demo demo-purify test test-fid lint models clean

help:
	@echo "make demo            implant a backdoor, sample, measure, and write a page (10 to 15 minutes on two cores)"
	@echo "make demo DEMO=full  the same with 1000 sampling steps and 128 noises"
	@echo "make demo-purify     the same, and then the repair of the model"
	@echo "make test            run the tests"
	@echo "make test-fid        test FID, KID and LPIPS in an environment of its own (6 GB, kept in the user's cache folder)"
	@echo "make lint            style, types, import bands, doctests"
	@echo "make models          retrain the two packaged models (hours)"

demo: $(VENV)/base.stamp
	$(VENV)/bin/baddiffusion demo $(if $(filter full,$(DEMO)),--full)

demo-purify: $(VENV)/base.stamp
	$(VENV)/bin/baddiffusion demo --purify $(if $(filter full,$(DEMO)),--full)

test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

test-fid:
	environment=$$($(PYTHON) tests/fid/environment.py) && \
	PYTHONPATH=src OMP_NUM_THREADS=1 $$environment/bin/python -m pytest tests/fid

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyrefly check
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest --doctest-modules src -q

models: $(VENV)/base.stamp
	$(VENV)/bin/python benchmarks/package_models.py

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "baddiffusion needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,data,ray,track]'
	touch $@ $(VENV)/base.stamp

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,data,ray,track,dev]'
	touch $@ $(VENV)/test.stamp $(VENV)/base.stamp
