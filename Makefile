# Everything runs in a virtual environment that the first target makes. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
# No caller changes Serve's deadline or what it does when a caller leaves: see deployments/proxy.py.
SAFE = RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy:middlewares
# How Serve is run where it matters: HAProxy before the routers, gRPC behind them, log lines written as they come; and its
# controller, its metrics and the search for new log files run once or twice a second, not ten times; no spare worker waits.
# After a reload the old HAProxy ends what still runs only after every request's deadline (limits.deadline_s, 600 s).
FAST = RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1 RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1 \
	RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.5 RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=1000 RAY_LOG_MONITOR_MANY_FILES_THRESHOLD=0 \
	RAY_prestart_worker_first_driver=0 RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S=660
CONFIG ?= serve_config.yaml

.PHONY: help demo serve serve-fast test test-haproxy test-fast lint audit lock bench parity clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.installed ## serve, send an image, map a folder, stop: results in data/output_images
	$(BIN)/python -m scripts.demo

serve: $(VENV)/.installed ## the application of serve_config.yaml, or of CONFIG=..., until Ctrl-C
	$(SAFE) $(BIN)/serve run $(CONFIG)

serve-fast: $(VENV)/.installed ## the same behind HAProxy: several times the requests; see docs/operations.md
	$(SAFE) $(FAST) $(BIN)/serve run $(CONFIG)

# Waiting threads that spin would take the cores from what the other tests do: see deployments/replica/process_env.py.
# A group (`xdist_group`, else a file) is run by one worker, in the order that tests/conftest.py gives the groups.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
WORKERS ?= 2

test: $(VENV)/.installed-dev ## all tests; 16 minutes on two cores
	$(PYTEST)

test-haproxy: $(VENV)/.installed-dev ## the tests of the HTTP contracts with HAProxy in front, as serve-fast has it
	$(FAST) $(PYTEST) -n 1 -m behind_haproxy # one worker: routers of two clusters would take each other's ports

test-fast: $(VENV)/.installed-dev ## the tests without services, browsers and compilers; 2 minutes on two cores
	$(PYTEST) --fast --durations 5

lint: $(VENV)/.installed-dev ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(VENV)/.installed-dev ## known weaknesses of the pinned versions, Python's and npm's; needs the internet
	$(BIN)/python -m scripts.audit

# What torch brings differs by its build, so torch's own wheels, and CUDA's, have pinned versions but no hash here.
TORCH = torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK = $(BIN)/uv pip compile pyproject.toml --constraints constraints.txt --universal --python-version 3.11 --quiet \
	--generate-hashes --no-annotate --custom-compile-command 'make lock' $(addprefix --no-emit-package ,$(TORCH))

lock: $(VENV)/.installed ## the hashes of the versions in constraints.txt: .ci/*.lock
	$(INSTALL) uv==0.13.9
	$(LOCK) --extra openvino --output-file .ci/requirements.lock
	$(LOCK) --extra dev --output-file .ci/requirements-dev.lock

bench: $(VENV)/.installed-dev ## this project beside diffusers' pipeline: SD1.5's size, over HTTP, and a queue; 10 minutes
	$(BIN)/python -m benchmarks.compare.suite

parity: $(VENV)/.installed-dev ## 200 random requests, batched together, against diffusers alone
	$(BIN)/python -m pytest tests/engine/test_parity.py --parity-count 200

clean: ## remove the environment and the caches, never results
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Everything but torch is installed by its hash; then torch, in the build that the machine's index has.
INSTALL = $(BIN)/python -m pip install
LOCKED = $(INSTALL) --require-hashes --no-deps -r
PROJECT = $(INSTALL) --no-build-isolation -c constraints.txt -e

# To serve takes the runtime and OpenVINO; to test, lint and measure takes the rest, too.
$(VENV)/.installed: pyproject.toml constraints.txt .ci/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'This needs Python 3.11 or newer. Name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo 'Python cannot make virtual environments here. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) .ci/requirements.lock
	$(PROJECT) '.[openvino]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed .ci/requirements-dev.lock
	$(LOCKED) .ci/requirements-dev.lock
	$(PROJECT) '.[dev]'
	@touch $@
