"""The progress of tasks that the web UI gets: pure functions."""

from __future__ import annotations

from deployments.api.webui.progress import overall_progress, task_progress
from deployments.api.webui.state import Stop, TaskReport, TaskState
from tests.support.reference import smooth_image

SOURCE = smooth_image(5, 64, 48)


def task(name: str, *, place: int = 0, step: int = 4, preview: bool = True, stop: Stop | None = None) -> TaskState:
    shown = SOURCE if preview else None
    return TaskState(TaskReport(name, 2, 1, place, step, 16, shown), 10.0, stop)


def test_idle_progress_is_what_clients_wait_for() -> None:
    progress = overall_progress([], with_image=True)
    state = progress.pop("state")
    assert progress == {
        "progress": 0.0,
        "eta_relative": 0.0,
        "current_image": None,
        "textinfo": None,
        "current_task": None,
    }
    assert state["job_count"] == state["job_no"] == state["sampling_step"] == state["sampling_steps"] == 0
    assert (state["skipped"], state["interrupted"], state["stopping_generation"]) == (False, False, False)


def test_progress_is_that_of_all_tasks_and_names_the_first_that_runs() -> None:
    progress = overall_progress([task("a", place=2, step=0, preview=False), task("b", stop="skipped")], with_image=True)
    assert (progress["progress"], progress["eta_relative"]) == (4 / 32, 70.0)
    assert (progress["state"]["job_count"], progress["state"]["job_no"]) == (4, 2)
    assert (progress["state"]["sampling_step"], progress["state"]["sampling_steps"]) == (2, 8)
    assert (progress["state"]["skipped"], progress["state"]["interrupted"]) == (True, False)
    assert (progress["current_task"], progress["state"]["job"]) == ("b", "b")
    assert progress["current_image"]
    assert overall_progress([task("b")], with_image=False)["current_image"] is None


def test_progress_of_a_task_says_where_it_is() -> None:
    tasks = [task("runs"), task("next", place=1), task("last", place=2)]
    running = task_progress("runs", tasks, completed=False, seen_preview=-1)
    assert (running["active"], running["queued"], running["progress"], running["eta"]) == (True, False, 0.25, 30.0)
    assert running["live_preview"].startswith("data:image/png;base64,")
    again = task_progress("runs", tasks, completed=False, seen_preview=running["id_live_preview"])
    assert (again["live_preview"], again["id_live_preview"]) == (None, running["id_live_preview"])
    queued = task_progress("last", tasks, completed=False, seen_preview=-1)
    assert (queued["active"], queued["queued"], queued["textinfo"]) == (False, True, "In queue: 2/2")
    gone = task_progress("gone", tasks, completed=True, seen_preview=-1)
    assert (gone["active"], gone["queued"], gone["completed"]) == (False, False, True)
