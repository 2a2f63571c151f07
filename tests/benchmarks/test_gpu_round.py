"""A round on a GPU plans, skips and stops without one; one item runs on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import publishing
from benchmarks.architectures import TINY, for_512_px
from benchmarks.gpu_round import __main__ as command
from benchmarks.gpu_round.cuda_tests import counts
from benchmarks.gpu_round.plan import ITEMS, Item, limit_s, reason_to_skip
from benchmarks.gpu_round.records import ItemResult, RoundRecord
from tests.support.commands import run, text_of


@pytest.mark.subprocess
def test_the_plan_names_every_item_and_loads_no_torch() -> None:
    code = (
        "import sys; from benchmarks.gpu_round.__main__ import main; main(plan=True); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"{item.name} " in done.stdout and f"{item.estimate_s:.0f} s" in done.stdout for item in ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_item_has_a_function(item: Item) -> None:
    module, _, function = item.function.partition(":")
    assert callable(getattr(import_module(f"benchmarks.gpu_round.{module}"), function))


def test_an_item_is_skipped_with_a_reason() -> None:
    item = Item("x", "", "", estimate_s=100, package="no_such_package", cuda_only=True)
    assert reason_to_skip(item, "cpu", 500) == "needs a CUDA device"
    assert reason_to_skip(item, "cuda", 500) == "needs no_such_package, which is not installed"
    assert reason_to_skip(item._replace(package=""), "cuda", 99) == "needs about 100 s, and 99 s are left"
    assert reason_to_skip(item._replace(package=""), "cuda", 100) == ""


def test_no_item_outlasts_the_round() -> None:
    item = Item("x", "", "", estimate_s=100)
    assert (limit_s(item, "cuda", 500), limit_s(item, "cuda", 120)) == (200, 120)


def test_an_unknown_item_is_bad_usage() -> None:
    done = run(command.main, "--plan", "--items", "norms,warp")
    assert done.exit_code == 2
    assert "no item warp; items: scaled-fp16" in text_of(done)


@pytest.mark.subprocess
def test_an_item_runs_on_a_cpu_and_leaves_its_figures(tmp_path: Path) -> None:
    options = ["--items", "cuda-tests,scaled-fp16", "--device", "cpu", "--minutes", 10]
    done = run(command.main, *options, "--output-dir", tmp_path)
    assert done.exit_code == 0, done.output
    record = RoundRecord.model_validate_json((tmp_path / "gpu-round.json").read_text())
    scaled, skipped = record.items
    assert skipped.reason == "skipped: needs a CUDA device"
    errors = {name: values[0] for name, values in scaled.figures.items() if name.endswith("relative error")}
    assert errors["encoder, 64 px, scaled fp16, relative error"] < errors["encoder, 64 px, bfloat16, relative error"]
    assert len(scaled.figures["encoder, 64 px, scaled fp16, ms"]) == 3
    lines = (tmp_path / "gpu-round.jsonl").read_text().splitlines()
    assert [ItemResult.model_validate_json(line).name for line in lines] == ["scaled-fp16", "cuda-tests"]


@pytest.mark.parametrize(("items", "device"), [("all", "cpu"), ("norms", "cuda")])
def test_a_trial_leaves_the_published_round_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: str, device: str
) -> None:
    monkeypatch.setattr(publishing, "RESULTS", tmp_path)
    monkeypatch.setattr(publishing, "git_commit", lambda: "0123456789ab + changes")
    done = run(command.main, "--items", items, "--device", device, "--minutes", 0, "--output-dir", tmp_path)
    assert done.exit_code == 0, done.output
    assert "takes rounds of all items on CUDA only" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_round_is_published_where_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "RESULTS", tmp_path)
    monkeypatch.setattr(publishing, "git_commit", lambda: "unknown")
    arguments = ["--minutes", 0, "--output-dir", tmp_path]
    done = run(command.main, *arguments)
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    done = run(command.main, *arguments, "--commit", "0123456789ab")
    assert done.exit_code == 0, done.output
    record = RoundRecord.model_validate_json((tmp_path / "gpu-round.json").read_text())
    assert (record.commit, record.device, len(record.items)) == ("0123456789ab", "cuda", len(ITEMS))


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("no-such-item", "", "", estimate_s=100), "failed with exit code 1"),
        (Item("norms", "", "", estimate_s=0.1), "stopped after 0 s"),
    ],
)
def test_an_item_that_fails_or_takes_too_long_says_so(item: Item, reason: str) -> None:
    assert command.run(item, "cuda", 100.0).reason.startswith(reason)


def test_outcomes_of_tests_are_counted() -> None:
    output = "...\n2 failed, 9 passed, 1 skipped, 3 warnings in 80.12s\n"
    assert counts(output) == {"tests failed": (2.0,), "tests passed": (9.0,), "tests skipped": (1.0,)}
    assert counts("") == {}


def test_a_checkpoint_made_for_512_px_shares_all_but_the_native_size(
    tmp_path: Path,
) -> None:
    for _ in range(2):  # it may be there already
        folder = for_512_px(TINY, tmp_path / "turbo")
    unet = json.loads((folder / "unet" / "config.json").read_text())
    assert unet == json.loads((TINY / "unet" / "config.json").read_text()) | {"sample_size": 64}
    assert (folder / "text_encoder" / "config.json").exists()
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
