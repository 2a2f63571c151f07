"""The folder job repeats requests that the app could not answer."""

from __future__ import annotations

from itertools import count

import pytest

from tests.support.folders import NewFolder, on_this_machine, run_folder
from tests.support.stand_in import FULL_TWICE_S, asking

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]

WIDTHS = count(40)  # the stand-in counts by width what it does only so many times


@on_this_machine
def test_image_is_asked_for_again_when_the_app_could_not_take_it(new_folder: NewFolder):
    attempts = {"die once.png": 2, "not ready once.png": 2}
    source, output = new_folder("in"), new_folder("out")
    for name in attempts:
        source.write(name, asking(name.removesuffix(".png"), next(WIDTHS)))
    assert run_folder(source, output).exit_code == 0
    # A replica that dies takes others' requests with it, and its successor is not there at once.
    rows = output.rows()
    tried = {name: row["attempts"] for name, row in rows.items()}
    assert all(least <= tried[name] <= least + 2 for name, least in attempts.items()), tried


@on_this_machine
def test_job_goes_on_in_a_new_process_after_sigterm_to_its_worker(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    source.write("end the caller once.png", asking("end the caller once", next(WIDTHS)))
    for number in range(8):
        source.write(f"{number}.png", asking("take a while"))
    result = run_folder(source, output)
    assert result.exit_code == 0, result.output
    assert len(output.results()) == 9


@on_this_machine
def test_image_refused_by_a_full_app_comes_back_when_it_was_told_to(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    source.write("full twice.png", asking("full twice", next(WIDTHS)))
    assert run_folder(source, output).exit_code == 0
    row = output.rows()["full twice.png"]
    assert row["attempts"] == 3
    assert row["total_s"] >= 2 * FULL_TWICE_S
