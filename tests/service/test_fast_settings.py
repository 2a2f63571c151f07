"""The environment of a fast server: `make serve-fast` sets what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deployments.config import REPO_ROOT, AppConfig

VARIABLE = re.compile(r"\b(RAY_[A-Za-z_]+)=(\S+)")
HARD_STOP = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"


def makefile() -> dict[str, str]:
    text = (REPO_ROOT / "Makefile").read_text("utf-8")
    return dict(VARIABLE.findall(text.partition("\nSAFE = ")[2].partition("\nCONFIG")[0]))


def test_operations_export_what_make_serve_fast_sets():
    text = (REPO_ROOT / "docs" / "operations.md").read_text("utf-8").partition("```bash")[2].partition("```")[0]
    exported = dict(VARIABLE.findall(text))
    assert exported.pop("RAY_AUTH_MODE") == "token"
    assert exported == makefile()


@pytest.mark.parametrize("config", ["serve_config.yaml", "configs/gpu.yaml"])
def test_haproxy_ends_no_request_before_its_deadline(config: str):
    (application,) = yaml.safe_load(Path(REPO_ROOT / config).read_text("utf-8"))["applications"]
    assert float(makefile()[HARD_STOP]) > AppConfig.model_validate(application["args"]).limits.deadline_s
