"""The parameters of an image, and the command that makes it again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from batch import run_image, show
from batch.record.results import RESULTS_FILE, Job
from batch.record.results import Result as JobResult
from deployments.images.codec import Format, encode_image
from deployments.images.metadata import format_parameters
from deployments.schemas import Settings
from tests.support.images import exif, file_of, gradient

SETTINGS = Settings(
    model="sd15",
    prompt="in the style of picasso",
    negative_prompt=None,
    strength=0.65,
    guidance_scale=12.0,
    num_inference_steps=20,
    seed=2**63 - 1,
    sampler="dpmpp_2m",
    max_side=512,
)
WEB_UI = "a fox\nSteps: 20, Sampler: {sampler}, CFG scale: 7, Seed: 5, Size: 512x384, Denoising strength: 0.4"
HOSTILE = 'it\'s "$HOME" `id`\n-- \x1b[31mred\x1b[0m \u202e 漢字 \\ \x85 end'


def write_image(file: Path, settings: Settings = SETTINGS) -> Path:
    kinds: dict[str, Format] = {".jpg": "jpeg", ".tif": "tiff"}
    kind: Any = kinds.get(file.suffix, file.suffix[1:])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_image(gradient(), kind, parameters=format_parameters(settings, (48, 32))))
    return file


def recorded(folder: Path, *results: JobResult) -> None:
    lines = "".join(result.model_dump_json() + "\n" for result in results)
    (folder / RESULTS_FILE).write_text('{"source": "torn.png", "output": "ph' + "\n" + lines + '{"source"')


def run_show(file: Path) -> Result:
    app = typer.Typer()
    app.command()(show.main)
    return CliRunner().invoke(app, [str(file)])


def understood(command: str) -> dict[str, Any]:
    """What batch.run_image makes of a command line that a real shell has split."""
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    python, dash_m, module, *arguments = os.fsdecode(words).split("\0")[:-1]
    assert (python, dash_m, module) == ("python", "-m", "batch.run_image")
    app = typer.Typer()
    app.command()(run_image.main)
    options = typer.main.get_command(app).make_context("run_image", arguments).params
    return {name: value for name, value in options.items() if value is not None}


def shown_command(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("python -m"))
    return understood(line)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "tif"])
def test_parameters_are_read_from_every_format(tmp_path: Path, extension: str) -> None:
    result = run_show(write_image(tmp_path / f"photo.{extension}"))
    assert result.exit_code == 0
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line]
    assert ["Prompt", "in the style of picasso"] in lines
    assert ["Steps", "20"] in lines
    assert ["Size", "48x32"] in lines


@pytest.mark.subprocess
@pytest.mark.parametrize("prompt", ["in the style of picasso", "--help", " spaced ", "it's", HOSTILE])
def test_command_asks_for_the_same_image(tmp_path: Path, prompt: str) -> None:
    changed = {"prompt": prompt, "negative_prompt": f"not {prompt}", "sampler": "lcm", "loras": "ink:0.8,oil.v2:-1"}
    settings = SETTINGS.model_copy(update=changed)
    options = shown_command(run_show(write_image(tmp_path / "photo.png", settings)))
    assert options["filename"] == Path("SOURCE")
    wanted = settings.model_dump() | {"max_side": 48}  # the longest side that the model saw
    assert {name: options[name] for name in wanted} == wanted


@pytest.mark.subprocess
def test_source_comes_from_the_results_of_a_folder_above(tmp_path: Path) -> None:
    image = write_image(tmp_path / "sub" / "photo.png")
    job = Job(source="-pets/my cat.png", output="sub/photo.png", settings=SETTINGS)
    other = Job(source="dog.png", output="sub/photo.png.png", settings=SETTINGS)
    recorded(tmp_path, JobResult.of(other), JobResult.of(job), JobResult.of(other))
    result = run_show(image)
    assert shown_command(result)["filename"] == Path("-pets/my cat.png")
    assert "-pets/my cat.png is a path in the input folder" in result.stderr


@pytest.mark.subprocess
def test_mask_comes_from_the_results_too(tmp_path: Path) -> None:
    image = write_image(tmp_path / "photo.png")
    job = Job(source="photo.png", output="photo.png", settings=SETTINGS, mask="-m/my sky.png")
    recorded(tmp_path, JobResult.of(job))
    result = run_show(image)
    assert shown_command(result)["mask"] == Path("-m/my sky.png")
    assert "-m/my sky.png is a path in the input folder" in result.stderr


@pytest.mark.subprocess
def test_result_in_another_format_than_its_source_is_asked_for_by_name(tmp_path: Path) -> None:
    image = write_image(tmp_path / "photo.webp")
    recorded(tmp_path, JobResult.of(Job(source="photo.JPG", output="photo.webp", settings=SETTINGS)))
    assert shown_command(run_show(image))["output_filename"] == "photo.webp"


@pytest.mark.subprocess
def test_image_without_parameters_takes_them_from_its_record(tmp_path: Path) -> None:
    image = write_image(tmp_path / "photo.bmp")
    recorded(tmp_path, JobResult.of(Job(source="photo.bmp", output="photo.bmp", settings=SETTINGS)))
    options = shown_command(run_show(image))
    wanted = SETTINGS.model_dump(exclude_none=True)
    assert {name: options[name] for name in wanted} == wanted


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("sampler", "ours"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("Euler a", "euler_ancestral"),
    ],
)
def test_images_of_the_web_ui_are_understood(tmp_path: Path, sampler: str, ours: str) -> None:
    comment = b"UNICODE\0" + WEB_UI.format(sampler=sampler).encode("utf-16-be")
    (tmp_path / "a.jpg").write_bytes(file_of(gradient(), "jpeg", exif=exif(user_comment=comment)))
    options = shown_command(run_show(tmp_path / "a.jpg"))
    expected = {"prompt": "a fox", "sampler": ours, "max_side": 512, "strength": 0.4}
    assert expected.items() <= options.items()


@pytest.mark.subprocess
def test_unsupported_parameters_are_left_out_and_named(tmp_path: Path) -> None:
    comment = b"UNICODE\0" + WEB_UI.format(sampler="DPM++ SDE").replace("0.4", "1.5").encode("utf-16-be")
    (tmp_path / "a.jpg").write_bytes(file_of(gradient(), "jpeg", exif=exif(user_comment=comment)))
    result = run_show(tmp_path / "a.jpg")
    assert shown_command(result).keys().isdisjoint({"sampler", "strength"})
    assert "Denoising strength '1.5' is left out: Input should be less than or equal to 1" in result.stderr
    assert "Sampler 'DPM++ SDE' is left out: Input should be" in result.stderr


def test_nothing_in_a_file_acts_on_the_terminal(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"prompt": HOSTILE})
    output = run_show(write_image(tmp_path / "photo.png", settings)).stdout
    assert all(character.isprintable() or character == "\n" for character in output)
    assert r"\x1b[31mred" in output


def test_image_of_another_program_exits_1(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file_of(gradient(), "png"))
    result = run_show(tmp_path / "a.png")
    assert result.exit_code == 1
    assert "has no parameters" in result.stderr


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.png", None, "No such file"),
        ("text.png", b"not an image", "not an image in JPEG"),
        ("empty.png", b"", "empty"),
        (".", None, "Is a directory"),
    ],
)
def test_bad_file_is_bad_usage(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = run_show(tmp_path / name)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())
