"""What operators see: the dashboard's queries, answered by a real Prometheus that scrapes the running service."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from benchmarks.ports import free_port
from deployments.telemetry import COUNTERS, GAUGES
from tests.support.reference import smooth_image
from tests.support.service import Service, eventually, png, serving

KEY = "img2img-the-key-of-alice-0123456789"
PANELS = json.loads(Path("configs/grafana-dashboard.json").read_text("utf-8"))["panels"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel.get("targets", ())
}
VARIABLES = {"$deployment": ".*", "$__rate_interval": "1m"}
METRICS = {
    "ray_img2img_calls_total",
    "ray_img2img_queue_wait_s",
    "ray_img2img_denoise_s",
    *(f"ray_img2img_{name}_total" for name in COUNTERS),
    *(f"ray_img2img_{name}" for name in GAUGES),
}
PROMETHEUS = shutil.which("prometheus")
Ask = Callable[[str], list[float]]


def test_dashboard_shows_every_metric_of_ours_and_no_other() -> None:
    shown = {name.removesuffix("_bucket") for name in re.findall(r"ray_img2img_\w+", " ".join(QUERIES.values()))}
    assert shown == METRICS


def test_operations_page_explains_every_metric_of_ours() -> None:
    page = Path("docs/operations.md").read_text("utf-8")
    assert [name for name in METRICS if f"`{name.removeprefix('ray_img2img_')}`" not in page] == []


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


@pytest.fixture(scope="module")
def program() -> str:
    if PROMETHEUS is None:
        pytest.skip("no prometheus on the PATH; on Debian: apt install prometheus")
    return PROMETHEUS


@pytest.fixture(scope="module")
def scraped(
    program: str, checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Ask]]:
    """The service, and how to ask the Prometheus that scrapes it."""
    port = free_port()
    # Ray forgets a gauge that was not set for two of these; a model sets its own every five seconds.
    ray_options = {"_metrics_export_port": port, "_system_config": {"metrics_report_interval_ms": 3000}}
    models = {"sd15": {"checkpoint": str(checkpoints("sd15"))}}
    folder = tmp_path_factory.mktemp("prometheus")
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump({"alice": {"sha256": hashlib.sha256(KEY.encode()).hexdigest()}}))
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        serving(models, headers=headers, ray_options=ray_options, keys={"file": str(keys)}) as service,
        prometheus(program, port, folder) as ask,
    ):
        yield service, ask


@contextmanager
def prometheus(program: str, target: int, folder: Path) -> Iterator[Ask]:
    """A Prometheus that scrapes the port `target` every second; asks it a query: the values of all series now."""
    scrape = {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]})
    )
    address = f"127.0.0.1:{free_port()}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
        "log.level": "warn",
    }
    process = subprocess.Popen([program, *(f"--{name}={value}" for name, value in options.items())])
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            eventually(lambda: client.get("/-/ready").is_success)
            yield lambda query: _values(client.get("/api/v1/query", params={"query": query}))
    finally:
        process.terminate()
        process.wait(30)


def _values(reply: httpx.Response) -> list[float]:
    answer: dict[str, Any] = reply.json()
    assert answer["status"] == "success", answer
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def filled_in(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


@pytest.mark.service
@pytest.mark.prometheus
def test_every_query_of_the_dashboard_finds_something(scraped: tuple[Service, Ask]) -> None:
    """Numbers, that is: dividing by nothing gives none."""
    service, ask = scraped
    left = dict(QUERIES)

    def all_found() -> bool:
        assert service.post(png(smooth_image(1, 64, 48)), num_inference_steps="8").status_code == 200
        for name, query in list(left.items()):
            if any(map(math.isfinite, ask(filled_in(query)))):
                del left[name]
        return not left

    try:
        eventually(all_found)
    finally:
        assert not left


@pytest.mark.service
@pytest.mark.prometheus
def test_prometheus_counts_what_happened(scraped: tuple[Service, Ask]) -> None:
    service, ask = scraped
    assert service.post(b"no image").status_code == 415
    assert httpx.get(f"{service.url}/v1/models").status_code == 401
    fields = {"num_inference_steps": "150", "strength": "1"}
    stream = {"accept": "text/event-stream"}
    files = {"image": png(smooth_image(4, 256, 256))}
    with service.client.stream("POST", "/v1/img2img", data=fields, files=files, headers=stream) as leaving:
        next(leaving.iter_lines())
    eventually(lambda: service.stats("sd15")["aborted"] == 1)
    counts = service.stats("sd15")
    for query, count in (
        ('ray_img2img_calls_total{key="alice",status="415"}', 1),
        ('ray_img2img_calls_total{key="unknown",status="401"}', 1),
        ("ray_img2img_aborted_total", 1),
        *((f'ray_img2img_{name}_total{{deployment="sd15"}}', counts[name]) for name in ("finished", "unet_rows")),
        ("ray_img2img_queue_wait_s_count", counts["finished"]),
        ("count(ray_img2img_load_s > 0)", 1),  # still: Ray forgets a gauge that was set once only
    ):
        eventually(lambda query=query, count=count: ask(query) == [count])
