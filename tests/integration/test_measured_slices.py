"""Long texts in slices: resumed, shared out among processes, and equal to one piece."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from measured import assert_equal, dictionary, text
from ports import free_port

from crossproof.evaluation import measured_slices, tally_interactions
from crossproof.evaluation.measured_slices import cut, tally_slices
from crossproof.interactions import Interactions
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
    assert len(cut(sequences, SIZE)) == 7
    at_once = tally_slices(model, crosscoder, sequences, tmp_path / "a", SIZE, None, 4)
    assert at_once is not None
    assert_equal(at_once.interactions, whole.interactions)
    for name, values in whole.totals.items():
        np.testing.assert_array_equal(at_once.totals[name], values)
    assert [len(b.tokens) for b in at_once.encoded] == [len(b.tokens) for b in whole.encoded]
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
    resumed = tally_slices(model, crosscoder, sequences, tmp_path / "b", SIZE, None, 4)
    assert measured == [SIZE] * 4
    assert resumed is not None
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
    found = tally_slices(model, crosscoder, sequences, tmp_path / "a", SIZE)
    assert found is not None
    assert_equal(
        found.interactions, tally_interactions(model, crosscoder, sequences, SIZE).interactions
    )


def one_of_two(number: int, port: int, model_folder: str, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    measured_slices.SLICE_TOKENS = 24
    with distributed.process_group():
        model = load_model(model_folder)
        crosscoder, sequences = dictionary(model).float(), text()
        found = tally_slices(model, crosscoder, sequences, folder / "slices", SIZE, None, 4)
        assert (found is None) == (number == 1)
        if found is not None:
            found.interactions.save(folder / "both")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = model_folders["gpt-neo"]
    multiprocessing.spawn(one_of_two, (free_port(), str(folder), tmp_path), nprocs=2)
    model = load_model(str(folder))
    alone = tally_slices(model, dictionary(model).float(), text(), tmp_path / "one", SIZE)
    assert alone is not None
    both = Interactions.load(tmp_path / "both")
    assert torch.equal(both.pairs, alone.interactions.pairs)
    assert both.tokens == alone.interactions.tokens
    for form, sums in alone.interactions.forward.items():
        # codes are float32, and another process may add up a product in another order
        torch.testing.assert_close(both.forward[form], sums, rtol=1e-4, atol=1e-5)
