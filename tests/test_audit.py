"""What the audit of the pinned versions makes of the reports of pip-audit and npm."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from scripts.audit import ALLOWED, Finding, Unreachable, in_npm_audit, in_pip_audit, is_allowed, read_allowed

WEAK = Finding("pillow", "9.0.0", ("PYSEC-1", "CVE-1"))
SOUND = {"name": "idna", "version": "3", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not on PyPI"}


def test_findings_of_pip_audit_have_all_their_names():
    vulns = [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["9.0.1"], "description": ""}]
    report = {"dependencies": [SOUND, SKIPPED, {"name": "pillow", "version": "9.0.0", "vulns": vulns}], "fixes": []}
    assert list(in_pip_audit(json.dumps(report))) == [WEAK]


def test_findings_of_npm_are_the_packages_that_are_weak_themselves():
    via = [{"url": "https://github.com/advisories/GHSA-1"}, "other"]
    report = {"vulnerabilities": {"ws": {"range": "<8", "via": via}, "openai": {"range": "*", "via": ["ws"]}}}
    assert list(in_npm_audit(json.dumps(report))) == [Finding("ws", "<8", ("GHSA-1",))]


@pytest.mark.parametrize("output", ["", "Traceback ...\nConnectionError: no", json.dumps({"dependencies": [SKIPPED]})])
def test_service_that_answers_nothing_is_no_clean_report(output: str):
    with pytest.raises(Unreachable):
        list(in_pip_audit(output))


@pytest.mark.parametrize("output", ["", json.dumps({"message": "405 Method Not Allowed", "method": "POST"})])
def test_npm_without_its_advisories_is_no_clean_report(output: str):
    with pytest.raises(Unreachable):
        list(in_npm_audit(output))


def test_finding_is_allowed_by_package_and_any_of_its_names():
    entry = 'id = "CVE-1"\npackage = "{}"\ndate = 2026-11-30\nreason = "not used"'
    assert is_allowed(WEAK, read_allowed("[[allowed]]\n" + entry.format("pillow")))
    assert not is_allowed(WEAK, read_allowed("[[allowed]]\n" + entry.format("torch")))


@pytest.mark.parametrize("entry", ['id = "CVE-1"\npackage = "pillow"', 'id = "a"\npackage = "b"\nreason = "c"'])
def test_allowed_finding_needs_its_reason_and_its_date(entry: str):
    with pytest.raises(ValidationError):
        read_allowed("[[allowed]]\n" + entry)


def test_allowed_findings_of_this_project_can_be_read():
    read_allowed(ALLOWED.read_text("utf-8"))
