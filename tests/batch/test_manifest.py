"""Lists and tables of images: every format reads alike, and what is wrong is named with its row and column."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from batch.planning.manifest import Row, is_manifest, read_rows
from deployments.engine.errors import InvalidRequest
from deployments.schemas import Img2ImgOptions

Records = list[dict[str, Any]]


def csv_of(records: Records) -> bytes:
    columns = list(dict.fromkeys(name for record in records for name in record))
    cells = [[str(record.get(name) or "").replace('"', '""') for name in columns] for record in records]
    return "\n".join([",".join(columns), *(",".join(f'"{cell}"' for cell in row) for row in cells)]).encode()


def jsonl_of(records: Records) -> bytes:
    return "\n".join(json.dumps(record) for record in records).encode()


def parquet_of(records: Records) -> bytes:
    file = BytesIO()
    columns = {name: [record.get(name) for record in records] for record in records for name in record}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


FORMATS = {"csv": csv_of, "jsonl": jsonl_of, "parquet": parquet_of}


def rows_of(name: str, data: bytes | str, root: str = "/photos/") -> list[Row]:
    return read_rows(name, data.encode() if isinstance(data, str) else data, [root])


def fault_of(name: str, data: bytes | str) -> str:
    with pytest.raises(InvalidRequest) as refused:
        rows_of(name, data)
    assert refused.value.param == "input"
    return refused.value.message


@pytest.mark.parametrize("extension", FORMATS)
def test_every_table_format_gives_the_same_rows(extension: str):
    everything = {
        "prompt": 'a "red" fox, in oil',
        "negative_prompt": "blurry",
        "model": "sd15",
        "strength": 0.65,
        "guidance_scale": 7.5,
        "num_inference_steps": 30,
        "seed": 2**62 + 1,
        "sampler": "euler",
        "max_side": 512,
    }
    records: Records = [
        {"image": "a.jpg"} | everything | {"mask": "masks/a.png", "output": "best/a.png"},
        {"image": "sub/b.png", "prompt": "in ink"},
        {"image": "c.webp"},
    ]
    first, second, third = rows_of(f"photos.{extension}", FORMATS[extension](records))
    assert (first.image, first.mask, first.output) == ("a.jpg", "masks/a.png", "best/a.png")
    assert first.overrides.model_dump(exclude_unset=True) == everything
    assert (second.image, second.overrides.model_dump(exclude_unset=True)) == ("sub/b.png", {"prompt": "in ink"})
    assert (third.image, third.overrides, third.mask, third.output) == ("c.webp", Img2ImgOptions(), None, None)


@pytest.mark.parametrize(
    ("name", "where"),
    [("p.csv", "p.csv, row 4"), ("p.jsonl", "p.jsonl, line 3"), ("p.parquet", "p.parquet, row 3"), ("p.txt", "line 3")],
)
def test_row_knows_where_it_stands(name: str, where: str):
    records: Records = [{"image": "a.jpg"}, {"image": "b.jpg"}, {"image": "c.jpg"}]
    make: Callable[[Records], bytes] = FORMATS.get(name[2:], lambda records: b"a.jpg\nb.jpg\nc.jpg")
    rows = rows_of(name, make(records))
    assert rows[-1].image == "c.jpg"
    assert where in str(rows[-1].where)


def test_list_has_one_path_a_line_and_blank_lines_are_counted_not_read():
    rows = rows_of("list.txt", "\ufeffa.jpg\r\n\r\n./sub//b c.jpg\r\n#1.png")
    assert [(row.where, row.image) for row in rows] == [
        ("list.txt, line 1", "a.jpg"),
        ("list.txt, line 3", "sub/b c.jpg"),
        ("list.txt, line 4", "#1.png"),
    ]


@pytest.mark.parametrize("column", ["image", "file", "source", "path", "File", " PATH "])
def test_image_column_goes_by_several_names(column: str):
    assert [row.image for row in rows_of("p.csv", f"{column}\na.jpg")] == ["a.jpg"]


def test_columns_may_be_written_as_words():
    (row,) = rows_of("p.csv", "Image,Guidance scale,negative-prompt\na.jpg,5,dull")
    assert row.overrides == Img2ImgOptions(guidance_scale=5, negative_prompt="dull")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_any_country_are_read(delimiter: str):
    lines = ["\ufeffimage", "strength"], ['"a.jpg"', ' "0.5"'], ["", ""], ["b.jpg", ""]
    rows = rows_of("p.csv", "\r\n".join(delimiter.join(line) for line in lines))
    assert [(row.image, row.overrides.strength, row.where) for row in rows] == [
        ("a.jpg", 0.5, "p.csv, row 2"),
        ("b.jpg", None, "p.csv, row 4"),
    ]


def test_prompt_of_several_lines_is_one_cell():
    first, second = rows_of("p.csv", 'image,prompt\na.jpg,"a fox,\nin oil"\nb.jpg,a cat')
    assert (first.overrides.prompt, second.overrides.prompt) == ("a fox,\nin oil", "a cat")
    assert second.where == "p.csv, row 3"


def test_empty_prompt_is_one_where_the_format_can_say_so():
    (row,) = rows_of("p.jsonl", '{"image": "a.jpg", "prompt": "", "negative_prompt": null, "model": ""}')
    assert row.overrides.model_dump(exclude_unset=True) == {"prompt": ""}
    assert rows_of("p.csv", "image,prompt\na.jpg,")[0].overrides == Img2ImgOptions()


def test_numbers_that_other_tools_made_fractions_of_are_read():
    records: Records = [{"image": "a.jpg", "seed": 7.0}, {"image": "b.jpg", "seed": float("nan")}]
    assert [row.overrides.seed for row in rows_of("p.parquet", parquet_of(records))] == [7, None]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("strength", "1.5", "'1.5' is not a number from 0 to 1"),
        ("strength", "lots", "'lots' is not a number from 0 to 1"),
        ("guidance_scale", "-1", "'-1' is not a number from 0 to 50"),
        ("num_inference_steps", "2.5", "'2.5' is not a whole number from 1 to 1000"),
        ("seed", "-3", "'-3' is not a whole number from 0 to 9223372036854775807"),
        ("sampler", "plms", "'plms' is not one of dpmpp_2m"),
        ("max_side", "15", "'15' is not a whole number from 16 to 65535"),
        ("image", "../a.jpg", "inside the input folder /photos/"),
        ("image", "/etc/a.jpg", "inside the input folder /photos/"),
        ("image", "s3://bucket/a.jpg", "inside the input folder /photos/"),
        ("image", ".", "inside the input folder /photos/"),
        ("mask", "sub/../../m.png", "inside the input folder /photos/"),
        ("output", "../out.png", "inside the output folder"),
        ("output", "/photos/out.png", "inside the output folder"),
        ("output", "out.svg", "must end in one of .jpg"),
        ("output", "out", "must end in one of .jpg"),
        ("output", ".out.png", "must not be hidden"),
        ("output", ".sub/out.png", "must not be hidden"),
        ("output", "Contact_Sheet.png", "nor be contact_sheet.png"),
        ("output", "x" * 252 + ".png", "at most 255 bytes"),
    ],
)
def test_bad_value_is_named_with_its_row_its_column_and_what_is_allowed(column: str, value: str, words: str):
    records: Records = [{"image": "a.jpg"}, {"image": "b.jpg"} | {column: value}]
    for name, where in (("p.csv", "p.csv, row 3"), ("p.jsonl", "p.jsonl, line 2"), ("p.parquet", "p.parquet, row 2")):
        fault = fault_of(name, FORMATS[name[2:]](records))
        assert fault.startswith(f"{where}, column {column}: ")
        assert words in fault


@pytest.mark.parametrize("value", [5, ["a.jpg"], {"bytes": "x"}, True, "a\udc80.jpg", "a\0.jpg"])
def test_image_that_is_no_path_is_refused(value: Any):
    assert fault_of("p.jsonl", json.dumps({"image": value})).startswith("p.jsonl, line 1, column image: ")


def test_absolute_path_into_the_input_folder_is_understood():
    rows = read_rows("l.txt", b"/photos/sub/a.jpg\n/real/photos/b.jpg\nphotos/c.jpg", ["/photos/", "/real/photos/"])
    assert [row.image for row in rows] == ["sub/a.jpg", "b.jpg", "photos/c.jpg"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.csv", "image,promt\na.jpg,x", "p.csv, row 1, column 'promt': no such column; columns: image, model"),
        ("p.csv", "image,file\na.jpg,b.jpg", "p.csv, row 1, column 'image': there is more than one"),
        ("p.csv", "prompt\nin oil", "p.csv, row 1: no column image (or file, source, path)"),
        ("p.csv", "", "p.csv, row 1: no column image"),
        ("p.csv", "image,prompt\na.jpg,a fox, in oil", "p.csv, row 2 has 3 cells, the header 2"),
        ("p.csv", 'image,prompt\nb.jpg,x\na.jpg,"a fox', "p.csv, after row 2: unexpected end of data"),
        ("p.csv", "image,strength\n,0.5", "p.csv, row 2, column image: is empty"),
        ("p.csv", b"image\n\xe9.jpg", "p.csv: is not UTF-8"),
        ("p.txt", b"\xe9.jpg", "p.txt: is not UTF-8"),
        ("p.jsonl", '{"image": "a.jpg"}\n{"image": }', "p.jsonl, line 2: not JSON: Expecting value at character 11"),
        ("p.jsonl", '"a.jpg"', "p.jsonl, line 1: must be an object"),
        ("p.jsonl", '{"image": "a.jpg", "steps": 3}', "p.jsonl, line 1, column 'steps': no such column"),
        ("p.parquet", "image\na.jpg", "p.parquet: "),
    ],
)
def test_broken_file_is_refused_with_the_place_of_the_fault(name: str, data: bytes | str, words: str):
    assert words in fault_of(name, data)


def test_first_faults_are_listed_together_and_the_rest_counted():
    lines = fault_of("p.csv", "image,strength\n" + "a.jpg,2\n" * 25).splitlines()
    assert [line.split(",")[1] for line in lines[:10]] == [f" row {number}" for number in range(2, 12)]
    assert lines[10:] == ["and 15 more"]


@pytest.mark.parametrize("twin", ["best.png", "BEST.png", "./best.png"])
def test_two_rows_must_not_ask_for_one_output(twin: str):
    fault = fault_of("p.csv", f"image,output\na.jpg,best.png\nb.jpg,{twin}")
    assert fault.startswith("p.csv, row 3, column output: ")
    assert fault.endswith("is also the output of p.csv, row 2")


@pytest.mark.parametrize("name", ["a.txt", "a.CSV", "s3://bucket/a.jsonl", "a.parquet"])
def test_lists_and_tables_are_told_by_their_extension(name: str):
    assert is_manifest(name)


@pytest.mark.parametrize("name", ["photos", "a.json", "txt", "photos/*.jpg"])
def test_anything_else_is_no_list(name: str):
    assert not is_manifest(name)
