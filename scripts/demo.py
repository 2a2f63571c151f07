"""The demo: start the app, send an image over HTTP, run the folder job, stop everything.

It runs in its own Ray cluster and, if the configured port is taken, on a free one. Running apps are not touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import requests
import yaml
from PIL import Image
from ray import serve
from ray.serve.schema import ApplicationStatus
from rich.console import Console
from rich.table import Table

from benchmarks.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("serve_config.yaml")
IMAGE = Path("data/input_images/astronaut.jpg")
FOLDER = Path("data/input_images")
OUTPUT = Path("data/output_images")
PROMPT = "in the style of picasso"

READY_TIMEOUT_S = 600
REPLY_TIMEOUT_S = 600
STOP_TIMEOUT_S = 30
LOG_LINES = 30

DEPLOY_FAILED = ApplicationStatus.DEPLOY_FAILED
CONSOLE = Console(highlight=False, soft_wrap=True)
HTTP = requests.Session()
HTTP.trust_env = False  # a proxy from the environment could not reach this machine's own address


class DemoFailed(Exception):
    """The demo cannot continue. The message gives the reason."""


def main() -> None:
    """Exit codes: 0 done, 1 failed, 130 interrupted."""
    os.chdir(ROOT)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would the app
    try:
        with tempfile.TemporaryDirectory() as scratch, own_cluster():
            run_demo(Path(scratch))
    except DemoFailed as failure:
        CONSOLE.print(f"[red]The demo failed.[/] {failure}")
        sys.exit(1)
    except KeyboardInterrupt:
        CONSOLE.print("Interrupted; everything is stopped.")
        sys.exit(130)


def run_demo(scratch: Path) -> None:
    """Run the demo. `scratch` holds the app's log and, for another port, its configuration."""
    serve_config = yaml.safe_load(CONFIG.read_text())
    usual_url = address(serve_config)
    config = with_free_port(serve_config, scratch)
    url = address(serve_config)
    log = scratch / "serve.log"
    report = Table("What", "Where", "Seconds", title="Done", title_justify="left")
    with serving(config, log) as app:
        started = time.monotonic()
        wait_until_ready(url, app, log)
        CONSOLE.print(f"The app is ready: {url}")
        report.add_row("start of the app", f"serve run {CONFIG}", f"{time.monotonic() - started:.1f}")

        started = time.monotonic()
        image = send(url, IMAGE)
        report.add_row("one image over HTTP", str(image), f"{time.monotonic() - started:.1f}")
        report.add_row("before and after", str(side_by_side(IMAGE, image)), "")

        started = time.monotonic()
        folder = map_folder(OUTPUT / "folder")
        report.add_row("a folder of images", f"{folder}/", f"{time.monotonic() - started:.1f}")
        report.add_row("its images, before and after", str(folder / "report.html"), "")
        report.add_row("its results table", str(folder / "results.jsonl"), "")
    CONSOLE.print()
    CONSOLE.print(report)
    CONSOLE.print("Everything is stopped. To continue, run `make serve`, and in another terminal:", style="bold")
    CONSOLE.print(f"  curl -F image=@{IMAGE} -F 'prompt={PROMPT}' {usual_url}/v1/img2img -o out.png")


@contextmanager
def own_cluster() -> Iterator[None]:
    """A Ray cluster that the commands below join through RAY_ADDRESS, beside any other one on this machine."""
    try:
        with interrupts_deferred():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in place of Ray's, which stops nothing
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield
    finally:
        ray.shutdown()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Raise a Ctrl-C only at the end of the block, as it crashes a starting Ray."""
    caught: list[Any] = []
    usual = signal.signal(signal.SIGINT, lambda *args: caught.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if caught:
        raise KeyboardInterrupt


def address(serve_config: dict[str, Any]) -> str:
    """The URL of the configured app."""
    return "http://{host}:{port}".format(**serve_config["http_options"])


def with_free_port(serve_config: dict[str, Any], scratch: Path) -> Path:
    """The configuration file to start: the usual one, or a copy with a free port if its port is taken."""
    options = serve_config["http_options"]
    try:
        port = free_port(options["host"], options["port"])
    except OSError as error:
        raise DemoFailed(f"No free port on {options['host']}: {error}") from error
    if port == options["port"]:
        return CONFIG
    CONSOLE.print(f"Port {options['port']} is taken, so the demo uses {port}.")
    options["port"] = port
    copy = scratch / CONFIG.name
    copy.write_text(yaml.safe_dump(serve_config))
    return copy


@contextmanager
def serving(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`serve run CONFIG` until the block ends, its output in `log`."""
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C reaches it through the `finally` below, once.
        app = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield app
    finally:
        with CONSOLE.status("Stopping the app"):
            app.send_signal(signal.SIGINT)
            try:
                app.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                app.kill()
                app.wait()


def wait_until_ready(url: str, app: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until every model of the app is ready. Raises DemoFailed with the end of the log.

    `serve run` continues when the app fails to deploy, so the status of Serve is read as well.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    with CONSOLE.status("Starting Ray Serve") as status:
        while True:
            models = get_models(url)
            if models and all(model["ready"] for model in models):
                return
            if models:
                status.update("Loading models: " + ", ".join(model["id"] for model in models if not model["ready"]))
            failed = any(status.status == DEPLOY_FAILED for status in serve.status().applications.values())
            if failed or app.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
                raise DemoFailed(f"The app did not get ready. The end of its log:\n{tail}")
            time.sleep(0.5)


def get_models(url: str) -> list[dict[str, Any]]:
    """The models of `GET /v1/models`, or an empty list while the app does not answer."""
    try:
        reply = HTTP.get(f"{url}/v1/models", timeout=10)
    except requests.RequestException:
        return []
    return reply.json()["data"] if reply.ok else []


def send(url: str, source: Path) -> Path:
    """Send an image over HTTP and write the reply."""
    with CONSOLE.status(f"Sending {source}"), source.open("rb") as image:
        reply = HTTP.post(
            f"{url}/v1/img2img",
            files={"image": image},
            data={"prompt": PROMPT, "seed": "7"},
            timeout=REPLY_TIMEOUT_S,
        )
    if not reply.ok:
        raise DemoFailed(f"POST /v1/img2img answered {reply.status_code}: {reply.text}")
    target = OUTPUT / "demo.png"
    target.write_bytes(reply.content)
    CONSOLE.print(f"{source} -> {target}  (model {reply.headers['x-model']}, {reply.headers['x-steps']} steps)")
    return target


def side_by_side(before: Path, after: Path) -> Path:
    """Write both images to one file. They have the same size, as the app keeps the size of its source."""
    with Image.open(before) as left, Image.open(after) as right:
        sheet = Image.new("RGB", (2 * left.width, left.height))
        sheet.paste(left, (0, 0))
        sheet.paste(right, (left.width, 0))
    target = after.with_name("demo_before_after.png")
    sheet.save(target)
    return target


def map_folder(output: Path) -> Path:
    """Run the folder job on the running app."""
    command = [sys.executable, "-m", "batch.run_folder", "--input", str(FOLDER), "--output", str(output)]
    if subprocess.run(command, check=False).returncode:
        raise DemoFailed(f"The folder job failed: {' '.join(command)}")
    return output


if __name__ == "__main__":
    main()
