"""The thumbnails, the contact sheet and the files of the report."""

from __future__ import annotations

import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch.report.contact_sheet import SHEET_CAPTION_PX, SHEET_GAP, SHEET_SIDE, contact_sheet
from batch.report.thumbnails import FOLDER, INDEX, PAIRS_PER_CHUNK, Pair, Thumbnails, thumbnail
from batch.report.writer import REPORT_FILE, SHEET_FILE
from deployments.config import REPO_ROOT
from tests.support.images import gradient, rgb_profile
from tests.support.reports import BLUE, RED, Folders, colours, failure, plain, result


@pytest.mark.parametrize(("size", "small"), [((1000, 500), (256, 128)), ((40, 30), (40, 30)), ((2, 900), (1, 256))])
def test_thumbnail_fits_into_256_px_and_is_never_enlarged(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert Image.open(BytesIO(thumbnail(gradient(*size)))).size == small


@pytest.mark.parametrize("profile", [rgb_profile(), b"no profile"], ids=["sRGB", "broken"])
def test_thumbnail_of_an_image_with_a_profile_has_its_colours(profile: bytes) -> None:
    np.testing.assert_allclose(colours(thumbnail(plain(RED), profile)), plain(RED), atol=4)


def test_thumbnails_are_kept_across_runs_and_made_once(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(i) for i in range(PAIRS_PER_CHUNK + 3)])
    folders.write()
    shutil.rmtree(tmp_path / "my photos")
    shutil.rmtree(tmp_path / "results" / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()}
    folders.write()
    assert {file: file.read_bytes() for file in (tmp_path / "results").rglob("*") if file.is_file()} == before
    assert {file.name for file in before} == {REPORT_FILE, SHEET_FILE, "index.json", "0.js", "1.js"}


def test_thumbnails_that_the_index_does_not_know_are_made_again(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(0), result(1)])
    first = folders.write().read_bytes()
    folders.outputs.write(INDEX, b"[[")
    folders.outputs.write(f"{FOLDER}/0.js", b"torn")
    assert folders.write().read_bytes() == first


def test_settings_that_changed_get_thumbnails_of_their_own(tmp_path: Path) -> None:
    old, new = result(0, digest="0" * 16), result(0, digest="1" * 16)
    outputs = Folders(tmp_path, [old]).outputs
    thumbnails = Thumbnails(outputs)
    thumbnails.add(old, Pair(b"old", b"old"))
    thumbnails.add(new, Pair(b"new", b"new"))
    thumbnails.close()
    again = Thumbnails(outputs)
    indices = [again.chunk_index(one) for one in (old, new)]
    assert [again.read(chunk)[position].after for chunk, position in filter(None, indices)] == [b"old", b"new"]


def test_lost_images_cost_their_thumbnails_and_nothing_else(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(0), result(1), result(2), failure(3)])
    (tmp_path / "my photos" / "in" / "00000.png").unlink()
    (tmp_path / "results" / "out" / "00001.png").write_bytes(b"damaged")
    folders.write()
    thumbnails = Thumbnails(folders.outputs)
    assert [thumbnails.chunk_index(one) for one in folders.results] == [(0, 0), None, (0, 1), None]
    assert [bool(pair.before) for pair in thumbnails.read(0)] == [False, True]


def test_contact_sheet_shows_before_beside_after() -> None:
    pairs = [(result(i), Pair(thumbnail(plain(RED)), thumbnail(plain(BLUE)))) for i in range(3)]
    sheet = contact_sheet(pairs)
    down = SHEET_SIDE + SHEET_CAPTION_PX + SHEET_GAP
    assert sheet.size == (2 * (2 * SHEET_SIDE + SHEET_GAP) + SHEET_GAP, 2 * down + SHEET_GAP)
    x, y = SHEET_GAP + SHEET_SIDE, SHEET_GAP + SHEET_SIDE - 20
    seen = [sheet.getpixel(at) for at in ((x - 20, y), (x + 20, y), (x - 20, y + down))]
    np.testing.assert_allclose(seen, [RED, BLUE, RED], atol=4)


def test_contact_sheet_draws_a_hundred_evenly(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [result(i) for i in range(101)])
    folders.write()
    rows = 100 // 5
    height = rows * (SHEET_SIDE + SHEET_CAPTION_PX + SHEET_GAP) + SHEET_GAP
    assert Image.open(tmp_path / "results" / SHEET_FILE).height == height


def test_job_without_a_finished_image_has_a_report_and_no_sheet(tmp_path: Path) -> None:
    folders = Folders(tmp_path, [failure(0)])
    assert "the PNG image is damaged" in folders.write().read_text("utf-8")
    assert not (tmp_path / "results" / SHEET_FILE).exists()


def test_report_and_playground_have_the_same_colours() -> None:
    styles = (REPO_ROOT / name for name in ("batch/report/report.css", "deployments/playground/theme.css"))
    report, playground = (dict(re.findall(r"--([\w-]+): (light-dark.+);", style.read_text())) for style in styles)
    common = report.keys() & playground.keys()
    assert {"paper", "ink", "line", "accent"} <= common
    assert {name: report[name] for name in common} == {name: playground[name] for name in common}
