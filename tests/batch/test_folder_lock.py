"""An output has one job at a time, and one input."""

from __future__ import annotations

from threading import Timer

import pytest

from tests.support.folders import NewFolder, assert_refused, job_process, on_this_machine, run_folder
from tests.support.images import gradient
from tests.support.service import eventually
from tests.support.stand_in import asking

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("running_app"), pytest.mark.xdist_group("stand-in")]


def test_second_job_on_one_output_is_refused_by_the_name_of_the_first(new_folder: NewFolder):
    source, output = new_folder("in"), new_folder("out")
    source.write("a.png", gradient())
    source.write("stuck.png", asking("never answer"))
    with job_process(source, output) as job:
        guard = Timer(120, job.kill)
        guard.start()
        eventually(lambda: len(output.results()) == 1, every_s=0.1)
        before = output.names()
        for options in [], ["--overwrite"], ["--prompt", "another"]:
            assert_refused(run_folder(source, output, *options), "--output", f"another job: process {job.pid} on")
        assert set(before) <= set(output.names())
        source.storage.delete("stuck.png")
        planned = run_folder(source, output, "--dry-run")
        assert planned.exit_code == 0, planned.output
        job.kill()
        guard.cancel()


@on_this_machine
def test_another_input_replaces_results_only_with_overwrite(new_folder: NewFolder):
    first, second, output = new_folder("2023"), new_folder("2024"), new_folder("out")
    first.write("a.png", gradient())
    second.write("a.png", gradient(50, 40))
    assert run_folder(first, output).exit_code == 0
    before = output.results()
    for options in [], ["--dry-run"], ["--retry-failed"]:
        assert_refused(run_folder(second, output, *options), "--output", first.uri)
    assert output.results() == before
    assert run_folder(second, output, "--overwrite").exit_code == 0
    assert output.results() != before
    assert_refused(run_folder(first, output), "--output", second.uri)
