"""Long texts in slices: resumed, shared out among processes, and equal to one piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from measured import assert_equal, dictionary, text
from processes import together

from crossproof.evaluation import measured_slices, tally_interactions
from crossproof.evaluation.measured_slices import tally_slices
from crossproof.evaluation.slices import cut, forget
from crossproof.lm import LanguageModel, load_model
from crossproof.training import distributed

SIZE = 2
"""Sequences a batch, and a slice."""


class StoppedError(Exception):
    """What stands for a kill."""


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_slices, "SLICE_TOKENS", 24)


def stopping(after: int) -> Callable[[int, int], None]:
    def tell(done: int, _: int) -> None:
        if done >= after:
            raise StoppedError

    return tell


def test_slices_add_up_and_a_stopped_measurement_goes_on(
    language_models: dict[str, LanguageModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, sequences = language_models["gpt-neo"], text()
    crosscoder = dictionary(model).float()
    whole = tally_interactions(model, crosscoder, sequences, SIZE, kept_sequences=4)
    assert len(cut(sequences, SIZE, 24)) == 7
    at_once = tally_slices(model, crosscoder, sequences, tmp_path / "a", SIZE, None, 4)()
    assert_equal(at_once.interactions, whole.interactions)
    assert list(at_once.totals) == list(whole.totals)
    assert (at_once.neurons, at_once.views) == (whole.neurons, whole.views)
    for name, values in whole.totals.items():
        np.testing.assert_array_equal(at_once.totals[name], values)
    assert [len(b.tokens) for b in at_once.encoded] == [len(b.tokens) for b in whole.encoded]
    forget(tmp_path / "a")
    assert not (tmp_path / "a").exists()

    with pytest.raises(StoppedError):
        tally_slices(model, crosscoder, sequences, tmp_path / "b", SIZE, stopping(7), 4)
    half_written = tmp_path / "b" / "slice-00004"
    half_written.mkdir()
    measured: list[int] = []

    def counted(model: LanguageModel, crosscoder: object, part: torch.Tensor, *a: object, **k: object) -> object:  # fmt: skip  # noqa: E501
        measured.append(len(part))
        return tally_interactions(model, crosscoder, part, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(measured_slices, "tally_interactions", counted)
    resumed = tally_slices(model, crosscoder, sequences, tmp_path / "b", SIZE, None, 4)()
    assert measured == [SIZE] * 4
    resumed.interactions.save(tmp_path / "resumed")
    at_once.interactions.save(tmp_path / "once")
    for file in (tmp_path / "once").iterdir():
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes()


def test_slices_of_another_dictionary_are_measured_again(
    language_models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model, sequences = language_models["gpt-neo"], text()
    crosscoder = dictionary(model).float()
    with pytest.raises(StoppedError):
        tally_slices(model, crosscoder, sequences, tmp_path / "a", SIZE, stopping(7))
    with torch.no_grad():
        crosscoder.b_enc.add_(0.1)
    found = tally_slices(model, crosscoder, sequences, tmp_path / "a", SIZE)()
    assert_equal(
        found.interactions, tally_interactions(model, crosscoder, sequences, SIZE).interactions
    )


def of_a_process(model_folder: Path, folder: Path) -> None:
    """Measures in a group of any size; the first writes what was found beside the slices."""
    measured_slices.SLICE_TOKENS = 24
    model = load_model(str(model_folder))
    crosscoder, sequences = dictionary(model).float(), text()
    merged = tally_slices(model, crosscoder, sequences, folder / "slices", SIZE, None, 4)
    if distributed.rank() == 0:
        merged().interactions.save(folder / "sums")


def test_two_processes_measure_what_one_does(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for count in (1, 2):
        together(of_a_process, model_folders["gpt-neo"], tmp_path / str(count), count=count)
    for file in (tmp_path / "1" / "sums").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / "sums" / file.name).read_bytes()
