"""Generated requests against the API's own description: whatever comes, the answer is one of the documented ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import replica_pids, serving

pytestmark = pytest.mark.service
ROOT = Path(__file__).parents[2]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BODY_OR_PARAMETERS = {"requestBody", "parameters"}  # an operation without has but one request
MANY = 1000
LIMITS = {"max_side": 64, "max_steps": 4, "max_images": 2, "max_upload_bytes": 100_000, "max_pixels": 250_000}


def test_generated_requests_get_documented_answers_and_cost_no_replica(
    request: pytest.FixtureRequest, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = request.config.getoption("--fuzz-cases")
    defaults = {"max_side": 64, "num_inference_steps": 2}
    with serving({"sd15": {"checkpoint": str(checkpoints("sd15"))}}, limits=LIMITS, defaults=defaults) as service:
        before = replica_pids("sd15") + replica_pids("router")
        paths = service.client.get("/openapi.json").json()["paths"].values()
        open_ended = sum(bool(BODY_OR_PARAMETERS & set(operation)) for path in paths for operation in path.values())
        report = tmp_path / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--checks", CHECKS]
        # Each bound of each field, one after the other, is as many requests again as six times the default.
        phases = "coverage,fuzzing" if wanted >= MANY else "fuzzing"
        command += ["--phases", phases, "--max-examples", str(-(-wanted // open_ended)), "--seed", "1"]
        command += ["--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all", "--no-color"]
        command += ["--report", "json", "--report-json-path", str(report)]
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks", "PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert replica_pids("sd15") + replica_pids("router") == before
    summary = json.loads(report.read_text())
    print(summary["test_cases"])
    assert summary["test_cases"]["generated"] >= wanted
