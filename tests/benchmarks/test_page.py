"""docs/benchmarks.md is what the generator writes from the records."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compare.records import Options
from benchmarks.folder.bounds import Bound, FolderRecord
from benchmarks.gpu_round.records import ItemResult, RoundRecord
from benchmarks.page.__main__ import PAGE, page
from benchmarks.page.tables import NO_RECORD, folder, gpu_round, in_process, over_http, overhead, queueing, sources
from benchmarks.service.overhead import OverheadRecord
from tests.support.records import FACTS, measured, recorded

MOST_LINES = 200


def test_the_page_is_what_the_generator_writes() -> None:
    assert PAGE.read_text() == page(), "python -m benchmarks.page"
    assert len(PAGE.read_text().splitlines()) <= MOST_LINES


def test_a_page_without_records_says_so(tmp_path: Path) -> None:
    assert page(tmp_path).count(f"\n{NO_RECORD}\n") == 9


def test_a_workload_is_a_line_with_a_column_for_each_backend_that_was_measured(tmp_path: Path) -> None:
    script = measured(backend="script")
    engines = [measured(seconds=seconds) for seconds in (1.0, 2.0, 4.0)]
    record = recorded(measurements=(script, *engines))
    (tmp_path / "compare-x.json").write_text(record.model_dump_json())
    assert in_process(tmp_path).splitlines() == [
        "| workload | script | engine |",
        "|---|---|---|",
        "| tiny, 256 px, mixed; 16 images of up to 30 steps x 3 rounds | 0.5 | 1 (0.5..2) |",
    ]
    assert (over_http(tmp_path), queueing(tmp_path)) == (NO_RECORD, NO_RECORD)


def test_a_workload_names_the_options_that_are_not_the_default(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"clients": 16, "reproducible": True, "device": "cuda"})):
        record = recorded(options=Options(**changes))
        (tmp_path / f"compare-{number}.json").write_text(record.model_dump_json())
    plain, changed = (line.split(";")[0] for line in in_process(tmp_path).splitlines()[2:])
    assert (plain, changed) == ("| tiny, 256 px, mixed", "| tiny, 256 px, mixed, cuda, reproducible, 16 clients")


def test_slowdowns_name_their_tail(tmp_path: Path) -> None:
    poisson = measured(mode="poisson")
    record = recorded(measurements=(poisson,), rates={"mixed": 1.0}, solo={"mixed": (0.5, 2.0)})
    (tmp_path / "compare-x.json").write_text(record.model_dump_json())
    assert queueing(tmp_path).splitlines()[-1].endswith("| 1.75; maximum 2 |")


def test_the_folder_jobs_figures_have_their_minimum_and_maximum(tmp_path: Path) -> None:
    bound = Bound(what="growth", values=(1.0, 1.2, 1.1), kind="at most", limit=1.1)
    record = FolderRecord(**FACTS, load_average=(0, 0, 0), bounds=(bound,), values={})
    (tmp_path / "folder-x.json").write_text(record.model_dump_json())
    assert folder(tmp_path).splitlines()[2:] == ["| growth | at most 1.1 | 1.1 (1..1.2) |"]


def test_overhead_is_a_line_for_each_proxy(tmp_path: Path) -> None:
    figures = {"alone_median_ms": 5.0, "alone_p99_ms": 8.0, "together_median_ms": 40.0, "requests_per_s": 400.0}
    starts = {"Serve's proxy": (figures,), "HAProxy": (figures, figures | {"requests_per_s": 300.0})}
    (tmp_path / "service-overhead.json").write_text(OverheadRecord(**FACTS, starts=starts).model_dump_json())
    lines = overhead(tmp_path).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| Serve's proxy", "| HAProxy"]
    assert "350 (300..400)" in lines[-1]


def test_a_round_on_a_gpu_shows_the_card_figures_and_reasons(tmp_path: Path) -> None:
    items = (
        ItemResult(name="norms", seconds=1, figures={"a, ms": (1.0, 3.0, 2.0), "b": (1.0,)}),
        ItemResult(name="service", reason="skipped: needs ray, which is not installed"),
    )
    facts = FACTS | {"machine": FACTS["machine"].model_copy(update={"gpu": "NVIDIA H200"})}
    record = RoundRecord(**facts, device="cuda", minutes=12, items=items)
    (tmp_path / "gpu-round.json").write_text(record.model_dump_json())
    assert gpu_round(tmp_path).splitlines()[2:] == [
        "| norms | NVIDIA H200 | a, ms 2 (1..3); b 1; done |",
        "| service | NVIDIA H200 | skipped: needs ray, which is not installed |",
    ]
    assert sources(tmp_path).startswith("- [gpu-round](../benchmarks/results/gpu-round.json): commit ")
