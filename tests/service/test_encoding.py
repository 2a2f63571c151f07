"""Images fit the model, get their size back, and are written with what belongs to them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from deployments.images.codec import FORMATS, Format, UnusableImage, encode_image
from deployments.images.geometry import fit_pixels, pad_to_multiple, restore_size
from deployments.images.metadata import read_parameters
from tests.support.images import (
    LOSSLESS,
    WEB_UI_COMMENT,
    decode,
    exif,
    file_of,
    gradient,
    half_transparent,
    png,
    png_chunk,
)

SAMPLES = Path(__file__).parents[2] / "data" / "input_images"
TEXT = "a fox, “très” fine 🦊\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7.0"


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1024, 768, (512, 384)), (300, 900, (171, 512)), (513, 512, (512, 511)), (2048, 64, (512, 16))],
)
def test_large_image_fits_its_longest_side_and_keeps_its_shape(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    fitted = fit_pixels(gradient(width, height), max_side=512, min_side=16)
    assert fitted.shape == (expected[1], expected[0], 3)
    np.testing.assert_allclose(fitted.astype(int), gradient(*expected), atol=10)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (512, 16), (16, 16), (100, 300)])
def test_image_that_fits_is_untouched(width: int, height: int) -> None:
    pixels = gradient(width, height)
    assert fit_pixels(pixels, max_side=512, min_side=16) is pixels


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 20), (20, 20000), (512, 15), (2048, 60)])
def test_image_too_thin_for_the_model_is_refused(width: int, height: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    with pytest.raises(UnusableImage, match=f"{width}x{height}.*at least 16 pixels"):
        fit_pixels(pixels, max_side=512, min_side=16)


def test_padding_mirrors_the_right_and_bottom_edges() -> None:
    pixels = gradient(13, 6)
    padded = pad_to_multiple(pixels, 8)
    assert padded.shape == (8, 16, 3)
    np.testing.assert_array_equal(padded[:6, :13], pixels)
    np.testing.assert_array_equal(padded[:6, 13:], pixels[:, :9:-1])
    np.testing.assert_array_equal(padded[6:, :13], pixels[:3:-1])


def test_padding_may_exceed_the_image() -> None:
    assert pad_to_multiple(gradient(17, 17), 64).shape == (64, 64, 3)


def test_image_of_whole_multiples_is_not_padded() -> None:
    pixels = gradient(64, 8)
    assert pad_to_multiple(pixels, 8) is pixels


def test_restored_image_has_the_size_asked_for() -> None:
    small = gradient(48, 32)
    assert restore_size(small, (48, 32)) is small
    np.testing.assert_allclose(restore_size(small, (96, 64)).astype(int), gradient(96, 64), atol=10)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("text", [TEXT, "plain ascii", "latin é", "", "lines\n\nand\ttabs" * 300])
def test_parameters_are_read_back_from_every_format_that_holds_them(format: Format, text: str) -> None:
    data = encode_image(gradient(), format, parameters=text)
    assert decode(data).format == format
    if format == "bmp":
        assert read_parameters(data) is None
    else:
        assert (read_parameters(data) or "") == text


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_format_keeps_every_pixel(format: Format) -> None:
    np.testing.assert_array_equal(decode(encode_image(gradient(), format, parameters=TEXT)).pixels, gradient())


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_lossy_format_stays_close(format: Format) -> None:
    written = decode(encode_image(gradient(), format, parameters=TEXT)).pixels.astype(int)
    assert np.abs(written - gradient()).mean() < 4


@pytest.mark.parametrize("format", FORMATS)
def test_alpha_is_put_back_where_the_format_holds_it(format: Format) -> None:
    alpha = half_transparent()
    written = decode(encode_image(gradient(), format, parameters="", alpha=alpha)).alpha
    if format in ("png", "webp", "tiff", "avif"):
        assert written is not None
        np.testing.assert_allclose(written.astype(int), alpha, atol=16 if format == "avif" else 0)
    else:
        assert written is None


@pytest.mark.parametrize(("text", "chunk"), [("a fox", b"tEXt"), ("a 🦊", b"iTXt")])
def test_png_parameters_lie_in_the_chunk_other_tools_read(text: str, chunk: bytes) -> None:
    assert chunk + b"parameters\0" in encode_image(gradient(), "png", parameters=text)


@pytest.mark.parametrize("format", ["jpeg", "webp", "tiff"])
def test_parameters_lie_in_the_exif_comment_other_tools_read(format: Format) -> None:
    assert WEB_UI_COMMENT in encode_image(gradient(), format, parameters="a fox\nSteps: 20")


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_exif_comment_has_the_type_that_strict_readers_ask_for(format: Format) -> None:
    undefined = struct.pack(">HHL", 0x9286, 7, len(WEB_UI_COMMENT))
    assert undefined in encode_image(gradient(), format, parameters="a fox\nSteps: 20")


def test_text_too_long_for_a_jpeg_is_left_out_and_kept_elsewhere() -> None:
    assert read_parameters(encode_image(gradient(), "jpeg", parameters="x" * 32_000)) == "x" * 32_000
    assert read_parameters(encode_image(gradient(), "jpeg", parameters="x" * 33_000)) is None
    assert read_parameters(encode_image(gradient(), "webp", parameters="x" * 33_000)) == "x" * 33_000


@pytest.mark.parametrize("format", FORMATS)
def test_half_a_surrogate_pair_does_not_stop_the_encoding(format: Format) -> None:
    assert read_parameters(encode_image(gradient(), format, parameters="a\ud83e")) in ("a?", None)


@pytest.mark.parametrize(("format", "most"), [("webp", 16383), ("jpeg", 65500), ("gif", 65535)])
def test_format_that_cannot_hold_the_size_says_so(format: Format, most: int) -> None:
    assert decode(encode_image(np.zeros((1, most, 3), np.uint8), format, parameters="")).size == (most, 1)
    with pytest.raises(UnusableImage, match=f"{format} holds at most {most} pixels"):
        encode_image(np.zeros((1, most + 1, 3), np.uint8), format, parameters="")


def test_image_without_parameters_has_none() -> None:
    noted = png(1, 1, 8, 0, b"\0\0", png_chunk(b"tEXt", b"comment\0made by hand"))
    assert [read_parameters(data) for data in (noted, file_of(gradient(), "jpeg", exif=exif(6)))] == [None, None]
    assert read_parameters(file_of(gradient(), "jpeg", exif=exif(1, b"ASCII\0\0\0camera"))) is None


def test_sample_images_are_small_and_their_sources_are_listed() -> None:
    sources = (SAMPLES / "SOURCES.md").read_text()
    samples = list(SAMPLES.rglob("*.jpg"))
    assert len(samples) == sources.count(".jpg`")
    for sample in samples:
        assert f"`{sample.relative_to(SAMPLES).as_posix()}`" in sources
        assert max(decode(sample.read_bytes()).size) <= 512
