"""What a photograph's EXIF says is in the folder job's results, and what is no longer true is not."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import ExifTags, Image

from batch.record.results import Job
from batch.running.worker import ImageWorker
from batch.storage.backends import LocalFolder
from batch.storage.storage import Storage
from deployments.config import Limits
from deployments.images import flow
from deployments.images.codec import Format
from deployments.images.exif import MAX_KEPT_BYTES, Exif, exif_block, read_exif
from deployments.images.metadata import read_parameters
from deployments.schemas import Settings
from tests.support.images import file_of, gradient, mutations

SETTINGS = Settings(
    model="sd15", prompt="a fox é", negative_prompt=None, strength=0.5, guidance_scale=1, num_inference_steps=4,
    seed=0, sampler="lcm", max_side=64,
)  # fmt: skip


def photo_exif(order: str = "<") -> Image.Exif:
    """The EXIF of a phone's photograph, with an orientation and what depends on the file's own layout."""
    block = Image.Exif()
    block.endian = order
    block[ExifTags.Base.Orientation] = 6
    block[ExifTags.Base.Make], block[ExifTags.Base.DateTime] = "Phone", "2026:11:30 12:00:00"
    photo = block.get_ifd(ExifTags.IFD.Exif)
    photo[ExifTags.Base.DateTimeOriginal], photo[ExifTags.Base.FNumber] = "2026:11:29 12:00:00", 1.8
    photo[ExifTags.Base.MakerNote], photo[ExifTags.Base.ExifImageWidth] = b"secret" * 10, 4000
    place = block.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitudeRef], place[ExifTags.GPS.GPSLatitude] = "N", (52.0, 31.0, 12.0)
    return block


def result(source: bytes, format: Format, *, keep: bool = True) -> bytes:
    decoded = flow.decode(source, Limits())
    prepared = replace(flow.prepare(decoded, Limits(), 64), exif=flow.exif_of(source) if keep else None)
    return flow.finish(prepared, prepared.pixels, SETTINGS, format).data


def facts(data: bytes) -> dict[str, Any]:
    block = Image.open(BytesIO(data)).getexif()
    photo, place = block.get_ifd(ExifTags.IFD.Exif), block.get_ifd(ExifTags.IFD.GPSInfo)
    return {
        "make": block.get(ExifTags.Base.Make),
        "date": photo.get(ExifTags.Base.DateTimeOriginal),
        "aperture": photo.get(ExifTags.Base.FNumber),
        "latitude": place.get(ExifTags.GPS.GPSLatitude),
        "orientation": block.get(ExifTags.Base.Orientation, 1),
        "dropped": [tag for tag in (ExifTags.Base.MakerNote, ExifTags.Base.ExifImageWidth) if tag in photo],
    }


KEPT = {"make": "Phone", "date": "2026:11:29 12:00:00", "aperture": 1.8, "latitude": (52, 31, 12), "orientation": 1}


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("source_format", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_camera_date_and_place_are_kept_without_the_orientation(order: str, source_format: str, format: Format) -> None:
    source = file_of(gradient(), source_format, exif=photo_exif(order).tobytes())
    assert facts(result(source, format)) == KEPT | {"dropped": []}
    assert b"secret" not in result(source, format)
    assert "a fox é" in (read_parameters(result(source, format)) or "")


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_stripped_result_holds_the_settings_only(format: Format) -> None:
    source = file_of(gradient(), "jpeg", exif=photo_exif().tobytes())
    stripped = result(source, format, keep=False)
    assert stripped == result(file_of(gradient(), "jpeg", exif=only_turned()), format)
    assert {value for name, value in facts(stripped).items() if name not in ("dropped", "orientation")} == {None}


def only_turned() -> bytes:
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = 6
    return block.tobytes()


def test_settings_outlive_an_exif_that_leaves_no_room_for_them() -> None:
    large = Exif(photo={0x9999: (7, MAX_KEPT_BYTES, bytes(MAX_KEPT_BYTES))})
    assert read_exif(exif_block(b"", large)) is not None
    source = file_of(gradient(), "webp", exif=exif_block(b"", large))
    long = SETTINGS.model_copy(update={"prompt": "x" * 4000})
    prepared = replace(flow.prepare(flow.decode(source, Limits()), Limits(), 64), exif=flow.exif_of(source))
    data = flow.finish(prepared, prepared.pixels, long, "jpeg").data
    assert "x" * 4000 in (read_parameters(data) or "")


def test_damaged_exif_is_left_out_and_never_grows() -> None:
    block = photo_exif().tobytes()
    for damaged in mutations(block, 2000, seed=1):
        kept = read_exif(damaged)
        assert kept is None or len(exif_block(b"", kept)) < 2 * MAX_KEPT_BYTES


def test_strip_is_part_of_what_decides_a_result_and_the_default_is_as_before() -> None:
    job = Job(source="a.jpg", output="b.jpg", settings=SETTINGS)
    assert job.digest == "cbba232f2c90bba5"
    assert job.model_copy(update={"strip": True}).digest != job.digest


@pytest.mark.parametrize(("strip", "make"), [(None, "Phone"), (True, None)])
def test_worker_keeps_the_sources_exif_unless_it_is_to_be_stripped(
    strip: Literal[True] | None, make: str | None, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(file_of(gradient(), "jpeg", exif=photo_exif().tobytes()))
    storage = Storage(LocalFolder(tmp_path))
    handle: Any = None
    worker = ImageWorker(handle, Limits(), storage, storage)
    job = Job(source="a.jpg", output="b.jpg", settings=SETTINGS, strip=strip)
    image, _ = worker._prepare(job, {})
    assert facts(flow.finish(image, image.pixels, SETTINGS, "jpeg").data)["make"] == make
