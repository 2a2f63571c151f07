"""The progress of tasks in the web UI's reply formats."""

from __future__ import annotations

import time
from typing import Any

from deployments.api.sse import preview_png
from deployments.api.webui.state import TaskState


def overall_progress(tasks: list[TaskState], *, with_image: bool) -> dict[str, Any]:
    """All tasks together, for `GET /sdapi/v1/progress`, with the steps and preview of the first running task."""
    reports = [task.report for task in tasks]
    current = next((report for report in reports if report.place == 0), reports[0] if reports else None)
    elapsed_s = max((task.elapsed_s for task in tasks), default=0.0)
    fraction = _fraction(sum(r.step for r in reports), sum(r.num_steps for r in reports)) if reports else 0.0
    stops = {task.stop for task in tasks}
    preview = current.preview if current is not None and with_image else None
    started = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() - elapsed_s))
    return {
        "progress": fraction,
        "eta_relative": elapsed_s / fraction - elapsed_s if fraction else 0.0,
        "state": {
            "skipped": "skipped" in stops,
            "interrupted": "interrupted" in stops,
            "stopping_generation": bool(stops - {None}),
            "job": current.task if current else "",
            "job_count": sum(report.num_images for report in reports),
            "job_timestamp": started if reports else "0",
            "job_no": sum(report.num_finished for report in reports),
            "sampling_step": current.step // current.num_images if current else 0,
            "sampling_steps": current.num_steps // current.num_images if current else 0,
        },
        "current_image": None if preview is None else preview_png(preview),
        "textinfo": None,
        "current_task": current.task if current else None,
    }


def task_progress(name: str, tasks: list[TaskState], *, completed: bool, seen_preview: int | None) -> dict[str, Any]:
    """One task, for `POST /internal/progress`. A preview's id is its step; with `seen_preview` None none is sent."""
    waiting = [task.report.task for task in tasks if task.report.place > 0]
    task = next((task for task in tasks if task.report.task == name and name not in waiting), None)
    reply: dict[str, Any] = {
        "active": task is not None,
        "queued": name in waiting,
        "completed": completed,
        "progress": None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": -1,
        "textinfo": f"In queue: {waiting.index(name) + 1}/{len(waiting)}" if name in waiting else "Waiting...",
    }
    if task is None:
        return reply
    report, fraction = task.report, _fraction(task.report.step, task.report.num_steps)
    reply |= {"progress": fraction, "eta": task.elapsed_s / fraction - task.elapsed_s, "textinfo": None}
    if seen_preview is not None and report.preview is not None:
        reply["id_live_preview"] = report.step
        if report.step != seen_preview:
            reply["live_preview"] = f"data:image/png;base64,{preview_png(report.preview)}"
    return reply


def _fraction(step: int, num_steps: int) -> float:
    """At least 0.01, as in the web UI."""
    return max(0.01, step / num_steps)
