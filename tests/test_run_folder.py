"""The folder job through a real Serve app: every picture gets its result or its error, and nothing stops the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import ray
import typer
from click.testing import Result
from PIL import Image
from ray import serve
from typer.testing import CliRunner

from batch.run_folder import main
from deployments.config import AppConfig
from deployments.images import decode_image, read_parameters
from tests.pictures import exif, file_of, gradient, stored_turned
from tests.stand_in import FULL_TWICE_S, MODELS, StandIn, asking

app = typer.Typer()
app.command()(main)
SUFFIXES = {"jpeg": ".jpg", "tiff": ".TIF", "png": ".png", "webp": ".webp", "gif": ".gif", "bmp": ".bmp"}
BAD = {
    "text.jpg": b"this is no picture",
    "empty.png": b"",
    "cut.jpg": file_of(gradient(400, 300), "jpeg")[:2000],
    "thin.png": file_of(gradient(600, 2), "png"),
}


def run_folder(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["source"] for row in rows}) == len(rows)
    return {row["source"]: row for row in rows}


def pixels_of(path: Path) -> np.ndarray[Any, Any]:
    return decode_image(path.read_bytes(), max_bytes=2**30, max_pixels=2**30).pixels


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder except the results table, which has times in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "results.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_of(pixels, path.suffix[1:]))


def assert_refused(result: Result, option: str, words: str) -> None:
    message = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2
    assert option in message
    assert words in message


@pytest.fixture(scope="module")
def running_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(proxy_location="Disabled")
    notes = tmp_path_factory.mktemp("notes")
    serve.run(StandIn.bind(AppConfig(models=MODELS), str(notes)), name="img2img")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures of every format, some in sub-folders, misbehaving ones, bad files, and files of other kinds."""
    folder = tmp_path_factory.mktemp("in")
    for sub in ("", "trips", "trips/2024"):
        (folder / sub).mkdir(exist_ok=True)
        for format, suffix in SUFFIXES.items():
            path = folder / sub / f"photo{suffix}"
            path.write_bytes(file_of(gradient(), format))
    (folder / "large.png").write_bytes(file_of(gradient(1000, 667), "png"))
    (folder / "rotated.jpg").write_bytes(file_of(stored_turned(gradient(), 6), "jpeg", exif=exif(6)))
    see_through = Image.fromarray(gradient()).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    (folder / "see-through.png").write_bytes(file_of(see_through, "png"))
    for ask in ("refuse", "kill the caller"):
        (folder / f"{ask}.png").write_bytes(file_of(asking(ask), "png"))
    for name, data in BAD.items():
        (folder / name).write_bytes(data)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    with open(os.fsencode(folder) + b"/latin-\xe9.jpg", "wb") as file:
        file.write(file_of(gradient(), "jpeg"))
    for name in ("notes.txt", "clip.mp4", ".hidden.png", "results.jsonl"):
        (folder / name).write_bytes(b"not for us")
    return folder


FAILING = {*BAD, "gone.jpg", "latin-\\udce9.jpg", "refuse.png", "kill the caller.png"}


@pytest.fixture(scope="module")
def job(running_app: None, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    output = tmp_path_factory.mktemp("out") / "new" / "folder"
    return run_folder("--input", sources, "--output", output, "--strength", 0.65), output


@pytest.mark.service
def test_job_with_failures_finishes_lists_them_and_exits_1(job: tuple[Result, Path]):
    result, _ = job
    assert result.exit_code == 1
    listed = {line.split(": ")[1] for line in result.output.splitlines() if line.startswith("failed: ")}
    assert listed == FAILING
    assert "2 other files ignored" in result.output


@pytest.mark.service
def test_every_image_has_one_line_in_the_results_table(job: tuple[Result, Path], sources: Path):
    rows = rows_of(job[1])
    ignored = {"notes.txt", "clip.mp4", ".hidden.png", "results.jsonl"}
    files = {path.relative_to(sources).as_posix() for path in sources.rglob("*") if not path.is_dir()} - ignored
    assert set(rows) == {name.encode(errors="backslashreplace").decode() for name in files}
    assert {source for source, row in rows.items() if row["error_type"]} == FAILING


@pytest.mark.service
def test_output_folder_holds_the_results_and_nothing_else(job: tuple[Result, Path]):
    rows = rows_of(job[1]).values()
    assert set(files_of(job[1])) == {row["output"] for row in rows if row["error_type"] is None}


@pytest.mark.service
def test_results_keep_sub_folder_extension_and_size_of_their_sources(job: tuple[Result, Path], sources: Path):
    for source, row in rows_of(job[1]).items():
        if row["error_type"] is None:
            written = Path(row["output"])
            assert (written.parent, written.suffix) == (Path(source).parent, Path(source).suffix)
            height, width = pixels_of(sources / source).shape[:2]
            assert pixels_of(job[1] / written).shape[:2] == (height, width) == (row["height"], row["width"])


@pytest.mark.service
@pytest.mark.parametrize("folder", ["", "trips/", "trips/2024/"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF"])
def test_result_is_what_the_model_made_of_the_source(job: tuple[Result, Path], folder: str, suffix: str):
    row = rows_of(job[1])[f"{folder}photo{suffix}"]
    np.testing.assert_array_equal(pixels_of(job[1] / row["output"]), 255 - gradient())


@pytest.mark.service
def test_exif_rotated_photo_comes_out_upright(job: tuple[Result, Path]):
    made = pixels_of(job[1] / rows_of(job[1])["rotated.jpg"]["output"])
    assert np.abs(made.astype(int) - (255 - gradient())).mean() < 8


@pytest.mark.service
def test_transparency_of_the_source_is_kept(job: tuple[Result, Path], sources: Path):
    with Image.open(sources / "see-through.png") as source:
        alpha = np.asarray(source.getchannel("A"))
    with Image.open(job[1] / rows_of(job[1])["see-through.png"]["output"]) as made:
        np.testing.assert_array_equal(np.asarray(made.getchannel("A")), alpha)


@pytest.mark.service
def test_result_carries_the_settings_of_its_row(job: tuple[Result, Path]):
    row = rows_of(job[1])["large.png"]
    text = read_parameters((job[1] / row["output"]).read_bytes())
    assert text is not None
    assert f"Seed: {row['seed']}, Size: 512x342, Model: {row['model']}, Denoising strength: 0.65" in text
    assert row["prompt"] in text
    assert (row["num_denoise_steps"], row["queued_s"], row["denoise_s"]) == (6, 0.25, 0.5)
    assert row["total_s"] > 0


@pytest.mark.service
@pytest.mark.parametrize(
    ("source", "error_type", "error"),
    [
        ("text.jpg", "NotAnImage", "not a picture"),
        ("empty.png", "NotAnImage", "empty"),
        ("cut.jpg", "NotAnImage", "damaged"),
        ("thin.png", "UnusableImage", "at least 16 pixels"),
        ("gone.jpg", "FileNotFoundError", "gone.jpg"),
        ("latin-\\udce9.jpg", "BadFileName", "UTF-8"),
        ("refuse.png", "InvalidRequest", "sampler must be euler"),
        ("kill the caller.png", "WorkerDied", "died"),
    ],
)
def test_failed_image_says_why_in_its_row(job: tuple[Result, Path], source: str, error_type: str, error: str):
    row = rows_of(job[1])[source]
    assert row["error_type"] == error_type
    assert error in row["error"]


@pytest.mark.service
def test_image_is_asked_for_again_when_the_app_could_not_take_it(running_app: None, tmp_path: Path):
    attempts = {"full twice.png": 3, "die once.png": 2, "not ready once.png": 2}
    for name in attempts:
        write(tmp_path / "in" / name, asking(name.removesuffix(".png")))
    assert run_folder("--input", tmp_path / "in", "--output", tmp_path / "out").exit_code == 0
    rows = rows_of(tmp_path / "out")
    # A replica that dies takes others' requests with it, and its successor is not there at once.
    assert all(attempts[source] <= row["attempts"] <= attempts[source] + 2 for source, row in rows.items())
    assert rows["full twice.png"]["total_s"] >= 2 * FULL_TWICE_S


@pytest.mark.service
def test_second_run_draws_and_makes_the_same_whatever_else_is_in_the_folder(running_app: None, tmp_path: Path):
    for number in range(12):
        write(tmp_path / "in" / f"{number}.png", gradient(32 + number, 32))
    first = run_folder("--input", tmp_path / "in", "--output", tmp_path / "first")
    write(tmp_path / "in" / "0 another.png", gradient())
    second = run_folder("--input", tmp_path / "in", "--output", tmp_path / "second", "--concurrency", 3)
    assert (first.exit_code, second.exit_code) == (0, 0)
    once, again = files_of(tmp_path / "first"), files_of(tmp_path / "second")
    assert len(once) == 12
    assert once.items() <= again.items()
    rows = rows_of(tmp_path / "first").values()
    assert {row["model"] for row in rows} == {"red", "blue"}
    assert len({row["prompt"] for row in rows}) > 1
    assert len({row["seed"] for row in rows}) == 12


@pytest.mark.service
def test_options_hold_for_every_image(running_app: None, tmp_path: Path):
    for name in ("a.bmp", "b.gif", "sub/c.png"):
        write(tmp_path / "in" / name, gradient())
    options = ["--prompt", "a fox", "--model", "someone/red", "--seed", 5, "--guidance-scale", 7.5, "--output-format"]
    result = run_folder("--input", tmp_path / "in", "--output", tmp_path / "out", *options, "png", "--no-recursive")
    assert result.exit_code == 0
    names = sorted(files_of(tmp_path / "out"))
    assert [name.rsplit("_", 1)[0] for name in names] == [
        "a_a_fox_str0.3_guide7.5_steps20_seed5_red",
        "b_a_fox_str0.3_guide7.5_steps20_seed5_red",
    ]
    assert [name[-4:] for name in names] == [".png", ".png"]


@pytest.mark.service
def test_interrupted_job_keeps_the_results_it_has(running_app: None, tmp_path: Path):
    done = ["a.png", "b.png", "c.png"]
    for name in done:
        write(tmp_path / "in" / name, gradient())
    write(tmp_path / "in" / "d.png", asking("never answer"))
    command = [sys.executable, "-m", "batch.run_folder", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | address) as job:
        assert job.stdout is not None
        guard = Timer(120, job.kill)
        guard.start()
        next(line for line in job.stdout if line.startswith("[3/4]"))
        job.send_signal(signal.SIGINT)
        job.communicate()
        guard.cancel()
    assert job.returncode == 130
    rows = rows_of(tmp_path / "out")
    assert sorted(rows) == done
    assert set(files_of(tmp_path / "out")) == {row["output"] for row in rows.values()}


@pytest.mark.service
def test_unknown_model_is_bad_usage(running_app: None, tmp_path: Path):
    write(tmp_path / "in" / "a.png", gradient())
    result = run_folder("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", "green")
    assert_refused(result, "--model", "red, blue")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--strength", "1.5", "less than or equal to 1"),
        ("--strength", "nan", "finite"),
        ("--guidance-scale", "99", "less than or equal to 50"),
        ("--num-inference-steps", "0", "greater than or equal to 1"),
        ("--seed", "-1", "greater than or equal to 0"),
        ("--sampler", "plms", "'euler'"),
        ("--max-side", "8", "greater than or equal to 16"),
        ("--output-format", "avif", "'webp'"),
        ("--concurrency", "0", "greater than or equal to 1"),
    ],
)
def test_bad_option_is_named_with_what_is_allowed(tmp_path: Path, option: str, value: str, allowed: str):
    write(tmp_path / "in" / "a.png", gradient())
    result = run_folder("--input", tmp_path / "in", "--output", tmp_path / "out", option, value)
    assert_refused(result, option, allowed)


@pytest.mark.parametrize("output", ["photos", "photos/out", "photos/../photos/", "."])
def test_results_never_mix_with_sources(tmp_path: Path, output: str):
    write(tmp_path / "photos" / "a.png", gradient())
    result = run_folder("--input", tmp_path / "photos", "--output", tmp_path / output)
    assert_refused(result, "--output", "outside")
    assert len(list(tmp_path.rglob("*"))) == 2


def test_missing_input_folder_is_named(tmp_path: Path):
    result = run_folder("--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert_refused(result, "--input", "nowhere")


def test_output_that_is_a_file_is_refused(tmp_path: Path):
    write(tmp_path / "in" / "a.png", gradient())
    (tmp_path / "out").touch()
    assert_refused(run_folder("--input", tmp_path / "in", "--output", tmp_path / "out"), "--output", "not a folder")


def test_folder_without_images_is_done_at_once(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    result = run_folder("--input", tmp_path / "in", "--output", tmp_path / "out", "--config", tmp_path / "none.yaml")
    assert result.exit_code == 0
    assert rows_of(tmp_path / "out") == {}
