"""The source images of a folder, a glob, a list or a table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from batch.planning.sources import SourceListing, find_sources, read_prompts
from batch.storage.storage import open_storage
from deployments.engine.errors import InvalidRequest


def put(folder: Path, *names: str, text: str = "image") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def paths_of(listing: SourceListing) -> list[str]:
    return [source.path for source in listing.sources]


def prompts_of(listing: SourceListing) -> dict[str, str | None]:
    return {source.path: source.overrides.prompt for source in listing.sources}


def fault_of(input: Path | str, manifest: Path | None = None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        find_sources(str(input), None if manifest is None else str(manifest))
    assert refused.value.param == "input"
    return refused.value.message


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    names = ("b.jpg", "a.PNG", "trips/c.webp", "trips/2024/d.tif", ".hidden.png", ".cache/e.png", "notes.md")
    return put(tmp_path / "photos", *names)


def test_folder_gives_its_images_in_order_and_leaves_out_what_is_hidden(photos: Path):
    listing = find_sources(str(photos))
    assert paths_of(listing) == sorted(paths_of(listing))
    assert set(paths_of(listing)) == {"a.PNG", "b.jpg", "trips/2024/d.tif", "trips/c.webp"}
    assert (listing.failures, listing.problems, listing.num_ignored) == ([], [], 1)


def test_every_name_of_a_jpeg_is_one_and_avif_is_read(tmp_path: Path):
    put(tmp_path, "a.jpg", "b.JFIF", "c.jpe", "d.avif")
    listing = find_sources(str(tmp_path))
    assert paths_of(listing) == ["a.jpg", "b.JFIF", "c.jpe", "d.avif"]
    put(tmp_path, "t.csv", text="image\nb.JFIF\nd.avif")
    assert paths_of(find_sources(str(tmp_path / "t.csv"))) == ["b.JFIF", "d.avif"]


def test_images_of_formats_that_are_not_read_are_named_apart_from_other_files(tmp_path: Path):
    put(tmp_path, "a.jpg", "e.HEIC", "f.txt", "g.mp4", "trip/h.dng")
    listing = find_sources(str(tmp_path))
    assert listing.problems == ["left out, as their format is not read: 'e.HEIC', 'trip/h.dng'"]
    assert listing.num_ignored == 2
    put(tmp_path, *(f"{number}.psd" for number in range(9)))
    (problem,) = find_sources(str(tmp_path)).problems
    assert problem.endswith("'0.psd', '1.psd', '2.psd', '3.psd', '4.psd' and 6 more")


def test_link_back_into_the_folder_is_reported_and_not_followed(photos: Path):
    (photos / "trips" / "again").symlink_to(photos)
    listing = find_sources(str(photos))
    (problem,) = listing.problems
    assert "trips/again" in problem
    assert len(listing.sources) == 4


def test_image_whose_name_is_not_utf_8_fails_alone(photos: Path):
    (photos / os.fsdecode(b"latin-\xe9.jpg")).touch()
    listing = find_sources(str(photos))
    (failure,) = listing.failures
    assert (failure.source, failure.error_type) == ("latin-\\udce9.jpg", "BadFileName")
    assert len(listing.sources) == 4


def test_sub_folders_can_be_left_out(photos: Path):
    assert paths_of(find_sources(str(photos), recursive=False)) == ["a.PNG", "b.jpg"]


def test_source_has_the_size_and_the_time_of_its_file_and_nothing_special(photos: Path):
    (source,) = [source for source in find_sources(str(photos)).sources if source.path == "b.jpg"]
    info = (photos / "b.jpg").stat()
    assert (source.size, source.mtime_ns) == (info.st_size, info.st_mtime_ns)
    assert (source.overrides.model_fields_set, source.mask, source.output, source.where) == (set(), None, None, None)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", {"a.PNG", "b.jpg"}),
        ("*.jpg", {"b.jpg"}),
        ("?.[jP]*", {"a.PNG", "b.jpg"}),
        ("**", {"a.PNG", "b.jpg", "trips/c.webp", "trips/2024/d.tif"}),
        ("**/*.[tw]*", {"trips/c.webp", "trips/2024/d.tif"}),
        ("*/*", {"trips/c.webp"}),
        ("trip?/**/d.tif", {"trips/2024/d.tif"}),
    ],
)
def test_glob_gives_what_matches_relative_to_the_folder_before_it(photos: Path, pattern: str, expected: set[str]):
    listing = find_sources(f"{photos}/{pattern}")
    assert set(paths_of(listing)) == expected
    assert listing.storage.read("b.jpg", 100) == b"image"


def test_glob_in_the_working_directory_needs_no_folder(photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photos)
    assert paths_of(find_sources("*.jpg")) == ["b.jpg"]


def test_folder_whose_name_looks_like_a_glob_or_a_table_is_a_folder(tmp_path: Path):
    for name in ("best [2024]", "photos.csv"):
        assert paths_of(find_sources(str(put(tmp_path / name, "a.jpg")))) == ["a.jpg"]


def test_list_names_the_images_relative_to_its_own_folder(photos: Path):
    put(photos, "lists.txt", text="trips/c.webp\nb.jpg\n")
    assert paths_of(find_sources(str(photos / "lists.txt"))) == ["trips/c.webp", "b.jpg"]


def test_list_from_elsewhere_names_images_of_the_input_folder(photos: Path, tmp_path: Path):
    put(tmp_path / "lists", "l.txt", text=f"b.jpg\n{photos}/a.PNG")
    assert paths_of(find_sources(str(photos), str(tmp_path / "lists" / "l.txt"))) == ["b.jpg", "a.PNG"]


def test_table_gives_images_their_settings_mask_and_output(photos: Path):
    put(photos, "masks/b.png", text="a mask")
    put(photos, "t.csv", text="image,strength,mask,output\nb.jpg,0.5,masks/b.png,best/b.png\na.PNG,,,\nb.jpg,,,")
    special, plain, again = find_sources(str(photos / "t.csv")).sources
    assert special.overrides.model_dump(exclude_unset=True) == {"strength": 0.5}
    assert special.mask is not None
    assert (special.mask.path, special.mask.size) == ("masks/b.png", 6)
    assert (special.output, special.where) == ("best/b.png", "t.csv, row 2")
    assert (plain.path, again.path) == ("a.PNG", "b.jpg")


def test_image_and_mask_may_lie_in_different_folders(photos: Path):
    put(photos, "t.csv", text="image,mask\ntrips/2024/d.tif,trips/c.webp\n")
    (source,) = find_sources(str(photos / "t.csv")).sources
    assert source.size == (photos / "trips" / "2024" / "d.tif").stat().st_size
    assert source.mask is not None
    assert source.mask.path == "trips/c.webp"


@pytest.mark.parametrize(
    ("row", "error_type", "words"),
    [
        ("gone.jpg,", "FileNotFoundError", "no file 'gone.jpg' (t.csv, row 2)"),
        ("gone/sub/a.jpg,", "FileNotFoundError", "no file 'gone/sub/a.jpg'"),
        ("b.jpg,gone.png", "FileNotFoundError", "no file 'gone.png' (t.csv, row 2)"),
        ("notes.md,", "NotAnImage", "image files end in .jpg"),
    ],
)
def test_row_without_a_usable_file_fails_alone(photos: Path, row: str, error_type: str, words: str):
    put(photos, "t.csv", text=f"image,mask\n{row}\na.PNG,")
    listing = find_sources(str(photos / "t.csv"))
    (failure,) = listing.failures
    assert paths_of(listing) == ["a.PNG"]
    assert (failure.source, failure.error_type) == (row.split(",")[0], error_type)
    assert words in str(failure.error)


def test_table_whose_files_are_all_missing_still_fails_row_by_row(photos: Path):
    put(photos, "t.csv", text="image\ngone/a.jpg\ngone/b.jpg")
    assert len(find_sources(str(photos / "t.csv")).failures) == 2


def test_caption_beside_an_image_is_its_prompt(photos: Path):
    put(photos, "b.txt", "trips/2024/d.txt", text="\ufeff a fox,\nin oil \n")
    put(photos, "notes.txt", text="no image's")
    put(photos, "a.txt", text=" \n")
    listing = find_sources(str(photos))
    caption = "a fox,\nin oil"
    assert prompts_of(listing) == {"a.PNG": None, "b.jpg": caption, "trips/2024/d.tif": caption, "trips/c.webp": None}
    assert listing.num_ignored == 2
    assert find_sources(f"{photos}/*.jpg").sources[0].overrides.prompt == caption


def test_prompt_of_a_row_comes_before_the_caption(photos: Path):
    put(photos, "b.txt", "a.txt", text="from the caption")
    put(photos, "t.csv", text="image,prompt,seed\nb.jpg,from the row,1\na.PNG,,2\nb.jpg,,3")
    sources = find_sources(str(photos / "t.csv")).sources
    assert [source.overrides.model_dump(exclude_unset=True) for source in sources] == [
        {"prompt": "from the row", "seed": 1},
        {"prompt": "from the caption", "seed": 2},
        {"prompt": "from the caption", "seed": 3},
    ]


@pytest.mark.parametrize("data", [b"caf\xe9", b"x" * 70_000])
def test_image_with_an_unusable_caption_fails_alone(photos: Path, data: bytes):
    (photos / "b.txt").write_bytes(data)
    listing = find_sources(str(photos))
    (failure,) = listing.failures
    assert (failure.source, failure.error_type) == ("b.jpg", "BadCaption")
    assert "'b.txt'" in str(failure.error)
    assert len(listing.sources) == 3


@pytest.mark.parametrize("names", [("A.jpg", "a.jpg"), ("Sub/a.jpg", "sub/a.jpg"), ("caf\u00e9.jpg", "cafe\u0301.jpg")])
def test_names_that_some_file_system_takes_for_one_are_made_and_reported(tmp_path: Path, names: Iterable[str]):
    listing = find_sources(str(put(tmp_path, *names, "other.jpg")))
    (problem,) = listing.problems
    assert {*paths_of(listing)} == {*names, "other.jpg"}
    assert all(ascii(name) in problem for name in names)


@pytest.mark.parametrize(
    ("input", "words"),
    [
        ("nowhere", "no folder"),
        ("photos/b.jpg", "no folder"),
        ("nowhere/*.jpg", "no folder"),
        ("nowhere.csv", "nowhere.csv"),
        ("nowhere/list.txt", "list.txt"),
        ("photos/**.jpg", "'**' can only be an entire path component"),
    ],
)
def test_missing_input_is_named(photos: Path, input: str, words: str):
    assert words in fault_of(photos.parent / input)


def test_missing_input_folder_of_a_table_is_no_failure_of_its_rows(photos: Path):
    put(photos, "t.csv", text="image\nsub/a.jpg")
    assert "no folder" in fault_of(photos / "nowhere", photos / "t.csv")


def test_prompts_come_one_a_line(tmp_path: Path):
    put(tmp_path, "prompts.txt", text="\ufeffin oil \r\n\r\n  a fox, in ink\n")
    assert read_prompts(str(tmp_path / "prompts.txt")) == ("in oil", "a fox, in ink")


@pytest.mark.parametrize(("data", "words"), [(b" \n", "no prompt"), (b"caf\xe9", "not UTF-8"), (None, "prompts.txt")])
def test_unusable_file_of_prompts_is_refused(tmp_path: Path, data: bytes | None, words: str):
    if data is not None:
        (tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(InvalidRequest, match=words) as refused:
        read_prompts(str(tmp_path / "prompts.txt"))
    assert refused.value.param == "prompts_file"


def test_remote_folder_glob_list_and_table_go_by_uri():
    uri = "memory://sources/photos"
    storage = open_storage(uri)
    for name, text in {
        "a.jpg": "one",
        "sub/b.png": "image",
        "sub/b.txt": "in oil",
        "lists/all.txt": f"{uri}/sub/b.png\na.jpg",
        "table.csv": "image,seed\nsub/b.png,7",
    }.items():
        storage.write(name, text.encode())
    assert prompts_of(find_sources(uri)) == {"a.jpg": None, "sub/b.png": "in oil"}
    assert paths_of(find_sources(f"{uri}/s*/*")) == ["sub/b.png"]
    assert paths_of(find_sources(uri, f"{uri}/lists/all.txt")) == ["sub/b.png", "a.jpg"]
    (source,) = find_sources(f"{uri}/table.csv").sources
    assert (source.path, source.size, source.overrides.seed) == ("sub/b.png", 5, 7)
