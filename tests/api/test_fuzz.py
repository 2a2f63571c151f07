"""Generated requests against the API's own description: whatever comes, the answer is one of the documented ones.

    python -m pytest -n 0 -s tests/api/test_fuzz.py -k fake --fuzz-cases 20000

makes 20,000 requests of all contracts, of fake models, which takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.http_server import listening
from tests.support.in_process import Api
from tests.support.service import replica_pids, resident_mib, serving

ROOT = Path(__file__).parents[2]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BODY_OR_PARAMETERS = {"requestBody", "parameters"}  # an operation without has but one request
MANY = 1000
REQUEST_TIMEOUT_S = 60  # the first call of a web UI route starts the state that routers share
LIMITS = {"max_side": 64, "max_steps": 4, "max_images": 2, "max_upload_bytes": 100_000, "max_pixels": 250_000}


def generate(url: str, wanted: int, folder: Path) -> dict[str, Any]:
    """Send at least `wanted` requests of all routes to the API at `url`; schemathesis's counts of them."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"].values()
    open_ended = sum(bool(BODY_OR_PARAMETERS & set(operation)) for path in paths for operation in path.values())
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
    # Each bound of each field, one after the other, is as many requests again as six times the default.
    phases = "coverage,fuzzing" if wanted >= MANY else "fuzzing"
    command += ["--phases", phases, "--max-examples", str(-(-wanted // open_ended)), "--seed", "1"]
    command += ["--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all", "--no-color"]
    command += ["--request-timeout", str(REQUEST_TIMEOUT_S), "--no-shrink"]
    command += ["--report", "json", "--report-json-path", str(report)]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    cases: dict[str, Any] = json.loads(report.read_text())["test_cases"]
    return cases


@pytest.mark.service
def test_generated_requests_get_documented_answers_and_cost_no_replica(
    request: pytest.FixtureRequest, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = request.config.getoption("--fuzz-cases")
    defaults = {"max_side": 64, "num_inference_steps": 2}
    with serving({"sd15": {"checkpoint": str(checkpoints("sd15"))}}, limits=LIMITS, defaults=defaults) as service:
        before = replica_pids("sd15") + replica_pids("router")
        cases = generate(service.url, wanted, tmp_path)
        assert replica_pids("sd15") + replica_pids("router") == before
    assert cases["generated"] >= wanted


@pytest.mark.subprocess
def test_generated_requests_of_fake_models_get_documented_answers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = request.config.getoption("--fuzz-cases")
    with listening(Api(limits=LIMITS).app) as port:
        started, held = time.monotonic(), resident_mib(os.getpid())
        cases = generate(f"http://127.0.0.1:{port}", wanted, tmp_path)
        grown = resident_mib(os.getpid()) - held
    print(f"{cases}, {time.monotonic() - started:.0f} s, {grown:.0f} MiB more")
    assert cases["generated"] >= wanted
