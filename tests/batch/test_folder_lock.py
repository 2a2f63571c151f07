"""Two folder jobs never write to one output at a time."""

from __future__ import annotations

from threading import Timer

import pytest

from tests.support.folders import NewFolder, assert_refused, job_process, run_folder
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
        assert output.names() == before
        source.storage.delete("stuck.png")
        planned = run_folder(source, output, "--dry-run")
        assert planned.exit_code == 0, planned.output
        job.kill()
        guard.cancel()
