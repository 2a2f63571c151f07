import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deployments.images.codec import (
    FORMATS,
    Format,
    ImageError,
    ImageTooLarge,
    NotAnImage,
    UnusableImage,
    decode_image,
    encode_image,
    is_quick_to_decode,
)
from deployments.images.metadata import read_parameters
from tests.support.images import (
    LOSSLESS,
    WEB_UI_COMMENT,
    cmyk_profile,
    decode,
    exif,
    file_of,
    gradient,
    half_transparent,
    linear_grey_profile,
    mutations,
    png,
    rgb_profile,
    stored_turned,
)

TEXT = "a fox, “très” fine 🦊\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7.0"


def rgba(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([gradient(), alpha]))


@pytest.mark.parametrize("format", FORMATS)
def test_image_decodes_to_its_pixels_size_and_format(format: Format) -> None:
    source = decode(file_of(gradient(), format))
    assert (source.format, source.size, source.alpha, source.icc_profile) == (format, (48, 32), None, None)
    error = np.abs(source.pixels.astype(int) - gradient())
    assert error.mean() < (1 if format in LOSSLESS else 8)


@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
def test_alpha_is_kept_aside_and_what_is_transparent_turns_white(format: Format) -> None:
    alpha = half_transparent()
    source = decode(file_of(rgba(alpha), format, **({"lossless": True} if format == "webp" else {})))
    assert source.alpha is not None
    np.testing.assert_array_equal(source.alpha, alpha)
    assert (source.pixels[:, :16] == 255).all()
    np.testing.assert_array_equal(source.pixels[:, 16:], gradient()[:, 16:])


@pytest.mark.parametrize(("mode", "transparency"), [("P", 7), ("L", 7), ("P", bytes([255] * 7 + [0]))])
def test_transparent_palette_or_grey_value_becomes_alpha(mode: str, transparency: int | bytes) -> None:
    image = Image.new(mode, (4, 2), 3)
    image.putpixel((1, 0), 7)
    image.putpalette(bytes(range(60))) if mode == "P" else None
    source = decode(file_of(image, "png", transparency=transparency))
    assert source.alpha is not None
    assert source.alpha.tolist() == [[255, 0, 255, 255], [255, 255, 255, 255]]
    assert source.pixels[0, 1].tolist() == [255, 255, 255]
    assert source.pixels[0, 0].tolist() == ([9, 10, 11] if mode == "P" else [3, 3, 3])


@pytest.mark.filterwarnings("error")
def test_palette_with_degrees_of_transparency_is_read_without_a_warning() -> None:
    image = Image.new("P", (4, 2), 3)
    image.putpixel((1, 0), 1)
    image.putpalette(bytes(range(60)))
    source = decode(file_of(image, "png", transparency=bytes([255, 128])))
    assert source.alpha is not None
    assert (source.alpha[0, 1], source.pixels[0, 1].tolist()) == (128, [3, 4, 5])


def test_gif_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    assert (decode(file_of(first, "gif", save_all=True, append_images=[second])).pixels == (255, 0, 0)).all()


def test_phone_jpeg_with_a_second_image_inside_is_a_jpeg() -> None:
    data = file_of(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert (decode(data).format, decode(data).size) == ("jpeg", (48, 32))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_colour_mode_shows_light_right_and_dark_left(mode: str) -> None:
    grey = np.zeros((8, 8), np.uint8)
    grey[:, 4:] = 255
    deep = {"I;16": (np.uint16, 257), "I": (np.int32, 257), "F": (np.float32, 1 / 255)}
    if mode in deep:
        kind, factor = deep[mode]
        image = Image.fromarray((grey * np.float64(factor)).astype(kind))
    else:
        image = (
            Image.fromarray(grey).convert("P").convert(mode) if mode == "PA" else Image.fromarray(grey).convert(mode)
        )
    assert image.mode == mode
    pixels = decode(file_of(image, "tiff")).pixels.astype(int)
    np.testing.assert_allclose(pixels, np.dstack([grey] * 3), atol=1)


@pytest.mark.parametrize(
    ("colour_type", "samples", "expected"),
    [
        (0, [0, 257 * 100, 65535], [[0] * 3, [100] * 3, [255] * 3]),
        (2, [65535, 0, 0, 0, 65535, 0, 257, 257 * 2, 257 * 3], [[255, 0, 0], [0, 255, 0], [1, 2, 3]]),
    ],
)
def test_16_bit_png_keeps_its_tones(colour_type: int, samples: list[int], expected: list[list[int]]) -> None:
    data = png(3, 1, 16, colour_type, b"\0" + np.array(samples, ">u2").tobytes())
    assert decode(data).pixels[0].tolist() == expected


def test_dim_16_bit_grey_stays_dim() -> None:
    assert (decode(file_of(Image.fromarray(np.full((8, 8), 2570, np.uint16)), "png")).pixels == 10).all()


def test_float_image_with_holes_decodes_with_them_black() -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    pixels = decode(file_of(Image.fromarray(values), "tiff")).pixels
    assert (pixels[0, 0].tolist(), pixels[0, 1].tolist(), pixels[1, 1].tolist()) == ([0] * 3, [0] * 3, [128] * 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_exif_rotated_photo_comes_out_upright(orientation: int, format: Format) -> None:
    stored = np.dstack([gradient(), half_transparent()])
    source = decode(file_of(stored_turned(stored, orientation), format, exif=exif(orientation)))
    assert source.alpha is not None
    np.testing.assert_array_equal(source.alpha, half_transparent())
    np.testing.assert_array_equal(source.pixels[:, 16:], gradient()[:, 16:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_exif_rotated_lossy_photo_comes_out_upright(orientation: int, format: Format) -> None:
    plain = decode(file_of(gradient(), format, quality=100)).pixels.astype(int)
    turned = decode(file_of(stored_turned(gradient(), orientation), format, quality=100, exif=exif(orientation)))
    assert np.abs(turned.pixels - plain).mean() < 2


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_cost_the_image() -> None:
    block = exif(6)
    assert decode(file_of(gradient(), "jpeg", exif=block[:14] + b"\xff" * 20)).size == (48, 32)


@pytest.mark.parametrize("format", ["jpeg", "png", "tiff", "webp"])
def test_rgb_profile_is_kept_and_written_back(format: Format) -> None:
    source = decode(file_of(gradient(), format, icc_profile=rgb_profile()))
    assert source.icc_profile == rgb_profile()
    again = decode(encode_image(source.pixels, format, parameters="", icc_profile=source.icc_profile))
    assert again.icc_profile == rgb_profile()


@pytest.mark.parametrize("profile", [cmyk_profile((137, 209, 195)), b"\0" * 64, b"junk"])
def test_profile_that_does_not_fit_rgb_pixels_is_dropped(profile: bytes) -> None:
    assert decode(file_of(gradient(), "jpeg", icc_profile=profile)).icc_profile is None


@pytest.mark.parametrize("format", ["jpeg", "tiff"])
@pytest.mark.parametrize(
    ("profile", "cyan"),
    [
        (cmyk_profile((137, 209, 195)), (254, 0, 5)),
        (cmyk_profile((137, 209, 195))[:200], (0, 255, 255)),
        (None, (0, 255, 255)),
    ],
)
def test_cmyk_becomes_srgb_by_its_own_profile(
    format: Format, profile: bytes | None, cyan: tuple[int, int, int]
) -> None:
    image = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (8, 0, 16, 8))
    source = decode(file_of(image, format, **({"icc_profile": profile} if profile else {})))
    assert source.icc_profile is None
    np.testing.assert_allclose(source.pixels[:, :8].astype(int), 255, atol=2)
    np.testing.assert_allclose(source.pixels[:, 8:].astype(int), np.broadcast_to(cyan, (8, 8, 3)), atol=8)


def test_grey_becomes_srgb_by_its_own_profile() -> None:
    source = decode(file_of(Image.new("L", (8, 8), 55), "png", icc_profile=linear_grey_profile()))
    assert source.icc_profile is None
    np.testing.assert_allclose(source.pixels.astype(int), 128, atol=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am a text file renamed to .jpg\n" * 50,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        file_of(gradient(), "ppm"),
        file_of(gradient(), "ico"),
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["empty", "text", "svg", "eps", "ppm", "ico", "jpeg-magic", "png-magic"],
)
def test_what_is_not_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        decode(data)


def test_only_jpegs_of_few_pixels_and_bytes_are_quick_to_decode() -> None:
    def blank(width: int, height: int) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)

    assert is_quick_to_decode(file_of(blank(512, 512), "jpeg"))
    assert is_quick_to_decode(file_of(blank(1024, 256), "jpeg"))
    assert not is_quick_to_decode(file_of(blank(513, 512), "jpeg"))
    assert not is_quick_to_decode(file_of(blank(8, 8), "jpeg") + bytes(600_000))
    assert not is_quick_to_decode(file_of(blank(8, 8), "png"))
    assert not is_quick_to_decode(b"\xff\xd8\xff damaged")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused(format: Format, kept: float) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    data = file_of(noise, format)
    with pytest.raises(NotAnImage):
        decode(data[: int(len(data) * kept)])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_raise_nothing_but_image_errors(format: Format, seed: int) -> None:
    image = rgba(half_transparent()) if format in ("png", "tiff", "webp") else Image.fromarray(gradient())
    extras = {"exif": exif(6, WEB_UI_COMMENT), "icc_profile": rgb_profile()} if format not in ("gif", "bmp") else {}
    for data in mutations(file_of(image, format, **extras), 60, seed):
        try:
            source = decode(data)
        except ImageError:
            continue
        assert source.pixels.shape == (*source.size[::-1], 3)
        assert source.pixels.dtype == np.uint8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", FORMATS)
def test_reading_parameters_of_damaged_files_raises_nothing_but_image_errors(format: Format) -> None:
    for data in mutations(encode_image(gradient(), format, parameters=TEXT), 100, seed=1):
        try:
            text = read_parameters(data)
        except ImageError:
            continue
        assert text is None or isinstance(text, str)


def test_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="at most 1000000"):
        decode(png(60000, 60000, 8, 2, b"\0" * 1000))


def test_image_over_the_pixel_limit_is_refused_before_it_is_decoded() -> None:
    undecodable = png(1001, 1000, 8, 2, b"")
    with pytest.raises(ImageTooLarge, match="1001x1000.*at most 1000000 pixels"):
        decode(undecodable)
    with pytest.raises(NotAnImage):
        decode(png(1000, 1000, 8, 2, b""))


def test_image_over_the_byte_limit_is_refused() -> None:
    data = file_of(gradient(), "png")
    assert decode_image(data, max_bytes=len(data), max_pixels=48 * 32).size == (48, 32)
    with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes; at most {len(data) - 1}"):
        decode_image(data, max_bytes=len(data) - 1, max_pixels=10**6)


@pytest.mark.parametrize("kind", [NotAnImage, ImageTooLarge, UnusableImage])
def test_errors_survive_pickling(kind: type[ImageError]) -> None:
    again = pickle.loads(pickle.dumps(kind("the reason")))
    assert (type(again), again.message, str(again)) == (kind, "the reason", "the reason")


@pytest.mark.subprocess
def test_images_need_no_torch_ray_or_web_framework() -> None:
    script = "import sys, deployments.images.codec; print({'torch', 'ray', 'fastapi', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
