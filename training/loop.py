"""The training loop that every network here shares: resumable, seeded, logged, with an average of the weights."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)

_WARM_UP = 100  # steps
_LOG_EVERY = 20
_SAVE_EVERY = 200


def train(
    model: Network,
    loss_at: Callable[[int], dict[str, torch.Tensor]],
    out: Path,
    *,
    steps: int,
    learning_rate: float,
) -> Network:
    """Train `model` for `steps` and return the average of its weights over about the last twentieth of them.

    `loss_at(step)` gives the step's losses, of which "loss" is minimised; what it draws at random must depend on the
    step alone, so that a run continued from `out/state.pt` is the run that was broken off. The rate warms up and then
    falls along half a cosine. `out/log.jsonl` and `out/loss.png` show the progress.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(max(0.9, 1 - 20 / steps)))  # type: ignore[no-untyped-call]
    state: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    start = _load(state, out / "state.pt")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task(out.name, total=steps, completed=start)
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _rate(step, steps)
            losses = loss_at(step)
            optimizer.zero_grad()
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            if step % _LOG_EVERY == 0:
                shown = {name: round(loss.item(), 5) for name, loss in losses.items()}
                _log(out, {"step": step, "time": round(time.time(), 1), **shown})
                progress.update(task, completed=step, description=f"{out.name} {shown}")
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
                _save(state, out / "state.pt", step + 1)
        progress.update(task, completed=steps)
    plot_log(out)
    return cast(Network, average.module)


def plot_log(out: Path) -> None:
    """Draw `out/log.jsonl` as `out/loss.png`: each loss over the steps, smoothed over 25 entries."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in sorted(entries[0].keys() - {"step", "time"}):
        values = torch.tensor([entry[name] for entry in entries])
        smooth = [values[max(0, i - 24) : i + 1].mean() for i in range(len(values))]
        axes.plot([entry["step"] for entry in entries], smooth, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(out / "loss.png", dpi=100)
    pyplot.close(figure)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _load(state: dict[str, Any], file: Path) -> int:
    """Restore what `_save` wrote, and return the number of steps done; 0 without a file."""
    if not file.exists():
        return 0
    saved = torch.load(file, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def _save(state: dict[str, Any], file: Path, step: int) -> None:
    """Write the state so that a crash leaves the old file or the new one, never half of one."""
    part = file.with_suffix(".part")
    torch.save({name: part.state_dict() for name, part in state.items()} | {"step": step}, part)
    part.replace(file)


def _log(out: Path, entry: dict[str, Any]) -> None:
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(entry) + "\n")
