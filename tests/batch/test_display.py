"""The progress bars of a folder job."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from batch import display
from batch.display import Display
from tests.support.reports import result


def test_model_named_all_has_its_own_bar(monkeypatch: pytest.MonkeyPatch):
    screen = StringIO()
    monkeypatch.setattr(display, "CONSOLE", Console(file=screen, force_terminal=True, width=120))
    with Display({"all": 2, "red": 1}) as bars:
        bars.add(result(0, model="all"))
    *_, of_model, of_red, of_all_models = (line for line in screen.getvalue().splitlines() if "failed" in line)
    assert "1/2" in of_model
    assert "0/1" in of_red
    assert "1/3" in of_all_models


def test_time_left_leaves_out_what_passed_before_the_first_image(monkeypatch: pytest.MonkeyPatch):
    log = StringIO()
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(display, "CONSOLE", Console(file=log, width=120))
    monkeypatch.setattr(display, "time", clock)
    with Display({"red": 80}) as bars:
        for number in range(7):
            clock.now = 40.0 + number  # the model loads for 40 s, then makes an image a second
            bars.add(result(number))
    assert log.getvalue().splitlines() == ["[1/80] 0 failed", "[7/80] 0 failed, 1.0 images/s, about 0:01:13 left"]
