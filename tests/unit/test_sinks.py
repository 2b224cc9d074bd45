"""Where else a training's figures go."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossproof.errors import CrossproofError
from crossproof.training import sinks
from crossproof.training.sinks import SINKS, Sink, check_sinks, open_sinks, register_sink

FIGURES = {"penalised/loss": 0.5, "penalised/dead": 3.0}


class Recorder:
    """What wandb and trackio are asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **settings: Any) -> None:
        self.calls.append(("init", settings))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", (values, step)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_with_the_same_one_offline(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    recorder = Recorder()
    monkeypatch.setattr(sinks, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setitem(sys.modules, package, recorder)
    for step in (0, 4):
        (sink,) = open_sinks([package, package], tmp_path / "mine", {"seed": 1}, step)
        sink.write(step + 1, FIGURES)
        sink.close()
    first, again = (settings for call, settings in recorder.calls if call == "init")
    assert first == again
    assert first["resume"] == "allow"
    assert first["config"] == {"seed": 1}
    assert first["project"] == "crossproof"
    assert first.get("mode", "offline") == "offline"
    assert [call for call in recorder.calls if call[0] == "log"] == [
        ("log", (FIGURES, 1)),
        ("log", (FIGURES, 5)),
    ]
    assert recorder.calls[-1][0] == "finish"
    other = open_sinks([package], tmp_path / "other", {}, 0)
    assert other
    assert recorder.calls[-1][1] != first


def test_what_is_unknown_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossproofError, match=r"no sink 'tensorbord'.*tensorboard"):
        check_sinks(["tensorbord"])
    monkeypatch.setattr(sinks, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CrossproofError, match=r"pip install 'crossproof\[tensorboard\]'"):
        check_sinks(["tensorboard"])


def test_others_are_registered_and_need_no_package(tmp_path: Path) -> None:
    written: list[tuple[int, Mapping[str, float]]] = []

    class Mine:
        def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
            written.append((step, {}))

        def write(self, step: int, values: Mapping[str, float]) -> None:
            written.append((step, values))

        def close(self) -> None:
            written.append((-1, {}))

    register_sink("mine", Mine)
    try:
        (sink,) = open_sinks(["mine"], tmp_path, {}, 7)
        checked: Sink = sink
        checked.write(8, FIGURES)
        checked.close()
    finally:
        SINKS.remove("mine")
    assert written == [(7, {}), (8, FIGURES), (-1, {})]


def test_tensorboard_replaces_steps_that_are_taken_again(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (0, 2):
        (sink,) = open_sinks(["tensorboard"], tmp_path, {}, first)
        for step in range(first + 1, first + 4):
            sink.write(step, {"loss": float(10 * first + step)})
        sink.close()
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        *((1, 1.0), (2, 2.0)),
        *((3, 23.0), (4, 24.0), (5, 25.0)),
    ]
