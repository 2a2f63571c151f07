"""Audits the pinned versions: pip-audit over constraints.txt, npm audit over the tests' package-lock.json.

    python -m scripts.audit

Findings that are allowed are in .ci/allowed-findings.toml. Exit codes: 0 nothing else was found, or no advisory service
could be reached, which is told; 1 findings.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = ROOT / ".ci" / "allowed-findings.toml"
PIP_AUDIT = "pip-audit==2.10.1"
SERVICES = ("pypi", "osv")


class Finding(NamedTuple):
    """A known weakness of a pinned version. `ids` are its names in all databases."""

    package: str
    version: str
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.package} {self.version}: {', '.join(self.ids)}"


class Allowed(BaseModel):
    """An entry of .ci/allowed-findings.toml."""

    model_config = ConfigDict(extra="forbid")

    id: str
    package: str
    date: datetime.date
    reason: str


class Unreachable(Exception):
    """No advisory service answered. The message gives the reason."""


def main() -> None:
    allowed = read_allowed(ALLOWED.read_text("utf-8"))
    found: list[Finding] = []
    for audit in (audit_python, audit_npm):
        try:
            found += audit()
        except Unreachable as error:
            print(f"\n!!! NOT AUDITED by {audit.__name__}: {error}\n", file=sys.stderr)
    refused = [finding for finding in found if not is_allowed(finding, allowed)]
    for finding in found:
        print(f"{'FOUND' if finding in refused else 'allowed'}: {finding}")
    print(f"{len(refused)} findings, {len(found) - len(refused)} allowed ones")
    sys.exit(bool(refused))


def read_allowed(text: str) -> list[Allowed]:
    """The entries of the file. Raises pydantic.ValidationError for one without its reason or date."""
    return [Allowed.model_validate(entry) for entry in tomllib.loads(text).get("allowed", [])]


def is_allowed(finding: Finding, allowed: list[Allowed]) -> bool:
    return any(entry.package == finding.package and entry.id in finding.ids for entry in allowed)


def audit_python() -> list[Finding]:
    """The findings in constraints.txt, by the first service that knows its packages. Raises Unreachable."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        bin = Path(scratch) / "bin"
        subprocess.run([bin / "pip", "install", "--quiet", PIP_AUDIT], check=True)
        audit: list[str | Path] = [bin / "pip-audit", "--no-deps", "--disable-pip", "-r", ROOT / "constraints.txt"]
        return _first(lambda service: in_pip_audit(_output([*audit, "--format", "json", "-s", service])))


def audit_npm() -> list[Finding]:
    """The findings in the tests' npm packages. Raises Unreachable."""
    folder = ROOT / "tests" / "support"
    return list(in_npm_audit(_output(["npm", "audit", "--json", "--prefix", folder])))


def in_pip_audit(output: str) -> Iterator[Finding]:
    """The findings in pip-audit's JSON. Raises Unreachable."""
    dependencies = _json(output).get("dependencies", [])
    if all("skip_reason" in dependency for dependency in dependencies):
        raise Unreachable("the service knows no package of constraints.txt")
    for dependency in dependencies:
        for weakness in dependency.get("vulns", []):
            ids = weakness["id"], *weakness["aliases"]
            yield Finding(dependency["name"], dependency["version"], ids)


def in_npm_audit(output: str) -> Iterator[Finding]:
    """The findings in npm's JSON. Raises Unreachable."""
    report = _json(output)
    if "vulnerabilities" not in report:
        raise Unreachable(str(report.get("message", "npm audit gave no report")))
    for name, entry in report["vulnerabilities"].items():
        urls = [via["url"] for via in entry["via"] if isinstance(via, dict)]
        if urls:  # else it is only that a dependency of the package is weak
            yield Finding(name, entry["range"], tuple(url.rpartition("/")[2] for url in urls))


def _first(audit: Callable[[str], Iterator[Finding]]) -> list[Finding]:
    reasons = []
    for service in SERVICES:
        try:
            return list(audit(service))
        except Unreachable as error:
            reasons.append(f"{service}: {error}")
    raise Unreachable("; ".join(reasons))


def _output(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def _json(output: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        *_, reason = output.strip().split("\n")
        raise Unreachable(reason) from None
    return report


if __name__ == "__main__":
    main()
