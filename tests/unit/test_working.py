"""Signs of life, and what commands end with."""

from __future__ import annotations

import io
import json
import re
import shlex
import time
from pathlib import Path

import pytest
from rich.console import Console

from crossproof import working as signs
from crossproof.commands.following import STEPS, next_step
from crossproof.report import terminal
from crossproof.working import told, while_it_lasts, working


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with working("loading"):
        pass
    assert capsys.readouterr().out == ""


def test_what_lasts_says_so_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signs, "PAUSE", 0.02)
    with working("loading \x1b[2J"):
        time.sleep(0.15)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 7
    assert set(lines) == {"loading \\x1b[2J: 0 s so far"}
    with while_it_lasts(lambda _: ""):
        time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_errors_pass_and_the_teller_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="inside"), working("loading"):
        raise ValueError("inside")


def test_lines_say_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.evaluation_display("measuring", "sequences") as report:
        for done, seconds in ((4, 0.0), (8, 4.0), (12, 20.0), (20, 5.0)):
            now[0] += seconds
            report("a", done, 20)
    said = capsys.readouterr().out.splitlines()
    # 4 at once, 8 too soon after it; 12: 24 s for 8, so 24 s more; the end.
    assert said[0] == "measuring a: 4/20 sequences"
    assert said[1] == "measuring a: 12/20 sequences, 24 s left"
    assert said[2] == "measuring a: 20/20 sequences"
    assert len(said) == 3


def test_what_is_left_is_known_from_the_first_item_on() -> None:
    said: list[tuple[int, int]] = []
    for item in told([2, 5], lambda end: end, 5, lambda *step: said.append(step)):
        assert said[-1] == ({2: 0, 5: 2}[item], 5)
    assert said == [(0, 5), (2, 5), (5, 5)]
    assert list(told([2, 5], lambda end: end, 5, None)) == [2, 5]


def test_silence_behind_the_last_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    lines = terminal._Lines("measuring", "sequences")
    lines.report("a", 20, 20)
    now[0] = 5.0
    assert lines.silence(5.0) == ""
    now[0] = 31.0
    assert lines.silence(31.0) == "measuring a: working, 31 s since the last step"
    now[0] = 61.0  # the longer it lasts, the fewer lines
    assert lines.silence(61.0) == ""
    now[0] = 62.0
    assert lines.silence(62.0) == "measuring a: working, 62 s since the last step"
    lines.report("a", 20, 20)
    now[0] = 72.0
    assert lines.silence(72.0) == "measuring a: working, 10 s since the last step"


def test_silence_between_steps_says_what_is_left_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    lines = terminal._Lines("measuring", "sequences")
    lines.report("a", 0, 3)
    now[0] = 20.0
    lines.report("a", 1, 3)  # 20 s for one: 40 s for two
    now[0] = 35.0
    assert lines.silence(35.0) == "measuring a: working, 15 s since the last step, 25 s left"
    now[0] = 75.0
    assert lines.silence(75.0) == "measuring a: working, 55 s since the last step"


def test_the_next_step_is_the_first_that_is_missing(tmp_path: Path) -> None:
    for command, (left, says) in STEPS.items():
        assert next_step(tmp_path) == f"Next: `crossproof {command} {tmp_path}` shows {says}."
        (tmp_path / left).parent.mkdir()
        (tmp_path / left).write_text("{}")
    assert next_step(tmp_path).startswith(f"Next: `crossproof evaluate {tmp_path}`")
    (tmp_path / "report.html").write_text("")
    assert next_step(tmp_path).startswith(f"Next: open {tmp_path / 'report.html'}")
    both = [tmp_path, tmp_path / "other"]
    assert f"measure {both[0]} {both[1]} --together" in next_step(tmp_path, both)
    (tmp_path / "together" / "measure").mkdir(parents=True)
    (tmp_path / "together" / "measure" / "measure.json").write_text("{}")
    assert f"evaluate {both[0]} {both[1]} --together" in next_step(tmp_path, both)


@pytest.mark.parametrize("everywhere", [True, False])
def test_no_step_that_the_dictionary_has_no_decoders_for(tmp_path: Path, everywhere: bool) -> None:
    """An SAE of one place cannot be attributed: after its clusters comes the report."""
    for left, _ in [STEPS["measure"], STEPS["cluster"]]:
        (tmp_path / left).parent.mkdir()
        (tmp_path / left).write_text("{}")
    (tmp_path / "sae" / "crosscoder").mkdir(parents=True)
    block = dict.fromkeys(("resid_pre", "resid_mid", "mlp_in"), 0)
    blocks = [block, block if everywhere else block | {"mlp_in": None}]
    config = json.dumps({"hookpoints": {"blocks": blocks}})
    (tmp_path / "sae" / "crosscoder" / "config.json").write_text(config)
    expected = "attribute" if everywhere else "evaluate"
    assert next_step(tmp_path).startswith(f"Next: `crossproof {expected} {tmp_path}`")
    page = tmp_path / "evaluation-held_out" / "report.html"  # where imported runs have it
    page.parent.mkdir()
    page.write_text("")
    assert next_step(tmp_path).startswith(f"Next: open {page}") != everywhere


def test_a_folder_with_blanks_is_quoted(tmp_path: Path) -> None:
    """What is printed can be typed."""
    step = next_step(tmp_path / "my run")
    assert shlex.split(step.split("`")[1])[1:] == ["measure", str(tmp_path / "my run")]
    both = [tmp_path / "my run", tmp_path / "other"]
    assert shlex.split(next_step(both[0], both).split("`")[1])[2:] == [
        *map(str, both),
        "--together",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_times_and_counts_are_whole_on_any_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = io.StringIO()
    console = Console(width=width, force_terminal=True, color_system=None, file=drawn)
    monkeypatch.setattr(terminal, "console", console)
    with terminal.evaluation_display("measuring", "sequences") as report:
        for name in ("unpenalised", "strongest pairs of unpenalised"):
            report(name, 130, 391)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue()).replace("\r", "\n").split("\n")
    last = [line.rstrip() for line in lines if line.strip()][-2:]
    for line in last:
        assert re.search(r" 130/391 sequences \d:\d\d:\d\d left -:--:--$", line)
        assert "measurin" in line
        assert len(line) <= width
    with terminal.training_display(850) as report:
        pass
    assert "step 0/850 0 tokens/s 0:00:00 left -:--:--" in drawn.getvalue()
