# Each target is a line that can be typed without make; `make` alone lists them.
SHELL := /bin/bash
export PATH := $(PATH):$(CURDIR)/.venv/bin
unexport VIRTUAL_ENV
PAYLOAD := {{cookiecutter.project_slug}}

.PHONY: help setup uv demo test check fix clean

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^#> / {print "\n" substr($$0, 4)} /^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' Makefile

#> Look
demo: uv  ## generate the example into a new folder (INTO=…), run its pipeline, ask its model
	uv run --quiet python demo.py $(INTO)

#> Work
setup: uv  ## make or refresh the template's own environment, .venv
	uv sync --quiet
test: uv  ## generate projects in every way and test them (quick ones alone: uv run pytest -m 'not slow')
	uv run --quiet pytest -n auto --dist loadfile --no-loadscope-reorder
check: uv  ## format, lint and types; changes nothing
	uv run --quiet ruff format --check
	uv run --quiet ruff check
	uv run --quiet mypy
	uv run --quiet yamllint --strict .
	uv run --quiet check-jsonschema --builtin-schema vendor.github-workflows '$(PAYLOAD)'/.github/workflows/*.yml
	uv run --quiet check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci '$(PAYLOAD)/.gitlab-ci.yml'
	uv run --quiet check-jsonschema --builtin-schema vendor.travis '$(PAYLOAD)/.travis.yml'
	uv run --quiet check-jsonschema --builtin-schema vendor.compose-spec '$(PAYLOAD)/compose.yaml'
	uv run --quiet hadolint '$(PAYLOAD)/Dockerfile'
	uv run --quiet zizmor --offline --quiet '$(PAYLOAD)/.github'
fix: uv  ## format, and mend what the linter can mend
	uv run --quiet ruff format
	uv run --quiet ruff check --fix
clean:  ## remove the environment, the caches and the demo
	rm -rf .venv .*_cache demo tests/__pycache__ hooks/__pycache__
	git clean -fdXq '$(PAYLOAD)' && rm -rf '$(PAYLOAD)'/{dvc.lock,reports,data}

uv:
	@uv --version >/dev/null 2>&1 || { python3 -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check uv; }
