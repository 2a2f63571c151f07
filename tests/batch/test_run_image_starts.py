"""The one-file job with an app that it starts itself."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ray import serve

from tests.support.folders import assert_refused
from tests.support.one_image import NAME, run_image, serve_config


@pytest.mark.service
def test_app_is_started_from_its_configuration_without_its_port_and_stopped_again(
    cluster: None, photo: Path, tmp_path: Path
):
    with socket.create_server(("127.0.0.1", 0)) as another_server:
        port = another_server.getsockname()[1]
        result = run_image(photo, "--config", serve_config(tmp_path, port))
    assert result.exit_code == 0
    assert "router: healthy" in result.output
    assert (tmp_path / "data" / "output_images" / f"{NAME}.png").is_file()
    assert serve.status().applications == {}


@pytest.mark.service
def test_model_that_does_not_load_ends_the_command_with_the_reason(cluster: None, photo: Path, tmp_path: Path):
    assert_refused(run_image(photo, "--config", serve_config(tmp_path, broken=True)), "--config", "no unet in this")
    assert serve.status().applications == {}


@pytest.mark.service
def test_configuration_without_the_app_names_the_apps_it_has(cluster: None, photo: Path, tmp_path: Path):
    result = run_image(photo, "--config", serve_config(tmp_path), "--app-name", "other")
    assert_refused(result, "--config", "no app 'other'; apps: img2img")


@pytest.mark.service
@pytest.mark.parametrize("text", [None, "- not a mapping", "applications: [{port: 1}]", "a: b: c"])
def test_unusable_configuration_is_bad_usage(cluster: None, photo: Path, tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "serve.yaml").write_text(text)
    assert_refused(run_image(photo, "--config", tmp_path / "serve.yaml"), "--config", "serve.yaml")


@pytest.mark.service
def test_model_that_does_not_load_stops_only_the_commands_that_want_it(cluster: None, photo: Path, tmp_path: Path):
    config = serve_config(tmp_path, broken="beside")
    assert run_image(photo, "--config", config, "--model", "red").exit_code == 0
    refused = run_image(photo, "--config", config, "--model", "blue")
    assert_refused(refused, "--config", "blue does not start: FileNotFoundError: no unet in this checkpoint")
    assert "Traceback" not in refused.output
