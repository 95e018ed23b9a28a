# The whole workflow: make demo, up, test, faults, lint, docs, pictures, bench, circuits, lock. Each installs what it needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PARTS := schemas broker control pi_agent client
OURS := icefarm-schemas icefarm-broker icefarm-control icefarm-agent icefarm
UV := $(shell command -v uv || echo $(CURDIR)/$(VENV)-tools/bin/uv)
PYTHON ?= python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Where Debian puts mosquitto.
export PATH := $(PATH):/usr/sbin

.PHONY: demo up test test-kernel test-others faults fault-programs kernel-programs browser-programs lint docs pictures bench bench-profile circuits install programs lock clean

demo: install
	$(BIN)/icefarm demo

up: install
	$(BIN)/icefarm up

# Several runs at a time: most of the time, tests wait.
test: install fault-programs kernel-programs browser-programs
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test-kernel test-others

test-kernel:
	$(BIN)/pytest tests/kernel

test-others:
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --ignore tests/kernel

# How many faults, and how many allocations beside them. As root, network cuts are among the faults.
FAULTS := 200
ALLOCATIONS := 100000

faults: install fault-programs
	ICEFARM_FAULTS=$(FAULTS) ICEFARM_FAULTS_ALLOCATIONS=$(ALLOCATIONS) $(BIN)/pytest tests/faults -s

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site is for any web server, and its pages can be opened as files. MkDocs 2 is no warning of ours.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Of the dashboard, for the documentation.
pictures: install browser-programs
	PYTHONPATH=.:tests $(BIN)/python -m tests.web.pictures

bench: install kernel-programs browser-programs
	$(BIN)/python -m benchmarks

bench-profile: install kernel-programs browser-programs
	$(BIN)/python -m benchmarks --profile

circuits: install
	@$(call need,yosys nextpnr-ice40 icepack,yosys nextpnr-ice40 fpga-icestorm)
	$(MAKE) -C examples/circuits

install: programs $(VENV)/installed

# Third-party packages as they are pinned, then our parts on top of them.
$(VENV)/installed: requirements.lock pyproject.toml $(PARTS:%=%/pyproject.toml) | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python '>=3.11' $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps $(PARTS:%=--editable %)
	touch $@

$(CURDIR)/$(VENV)-tools/bin/uv:
	@# Debian keeps what makes a venv in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call apt,python3-venv); }
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/pip install --quiet uv

programs:
	@$(call need,mosquitto mosquitto_pub iceunpack icebox_vlog iverilog,mosquitto mosquitto-clients fpga-icestorm iverilog)

# For clocks that jump, networks that are cut, and the tutorial.
fault-programs:
	@$(call need,faketime ip nsenter setpriv unshare pkill,faketime iproute2 util-linux procps)

# For machines that are emulated with a kernel of their own (tests/kernel, and a benchmark). They
# cannot write to this machine's files, so without bytecode each start of Python there would compile
# everything again.
kernel-programs: install
ifeq ($(shell uname -m),x86_64)
	@$(call need,qemu-system-x86_64 busybox modprobe /lib/systemd/systemd-udevd udevadm usbip ip,qemu-system-x86 busybox-static kmod udev usbip iproute2)
	@ls /boot/vmlinuz-* >/dev/null 2>&1 || { $(call apt,linux-image-amd64); }
	@$(BIN)/python -m compileall -q $(VENV)/lib/python*/site-packages $(PARTS:%=%/src)
endif

# For the dashboard's tests, and its pictures. What drives the browser needs a library that is not
# everywhere.
browser-programs:
	@$(call need,chromium,chromium fonts-dejavu-core)
	@ls /usr/lib/*/libatomic.so.1 >/dev/null 2>&1 || { $(call apt,libatomic1); }

# $(call need,programs,packages): install the packages where one of the programs is missing.
define need
missing=""; for program in $(1); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
if [ -n "$$missing" ]; then echo "Missing:$$missing"; $(call apt,$(2)); fi
endef

define apt
command -v apt-get >/dev/null || { echo "This system has no apt; install what Debian calls $(1) and try again." >&2; exit 1; }; \
echo "Installing $(1)"; $(SUDO) apt-get update -qq; \
$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null
endef

# After a change of a dependency.
lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --no-header --no-emit-index-url --no-annotate $(OURS:%=--no-emit-package %) \
	  --group dev $(PARTS:%=%/pyproject.toml) --output-file requirements.lock
	$(UV) pip compile --quiet --generate-hashes --python-version 3.11 \
	  --no-header --no-emit-index-url --no-annotate benchmarks/labgrid.in \
	  --output-file benchmarks/labgrid.lock

clean:
	rm -rf $(VENV) $(VENV)-tools $(VENV)-labgrid build
