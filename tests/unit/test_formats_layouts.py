"""Saves written here in each library's layout, against its forward pass written out here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_layouts import LAYOUTS, PLACES, D, P, crosscoder_compiled
from rounding import decode_close, encode_close

import crossproof
from crossproof.lm import LanguageModel


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_save_in_the_librarys_layout_computes_its_forward_pass(
    tmp_path: Path, gpt_neo: LanguageModel, name: str, seed: int
) -> None:
    layout = LAYOUTS[name]
    forward = layout.save(tmp_path, seed)
    crosscoder, _ = crossproof.import_dictionary(tmp_path, gpt_neo, layout.hookpoints)
    assert crosscoder.hookpoints.names == layout.places
    x = torch.randn(30, len(layout.places), D, generator=torch.Generator().manual_seed(9))
    code, reconstruction = forward(x.double())
    assert 0 < int((code != 0).sum()) < code.numel()
    latents = crosscoder.encode(x)
    assert torch.equal(latents.dense() != 0, code != 0)
    close = encode_close(crosscoder, x)
    torch.testing.assert_close(latents.dense(), code.float(), **close)
    close = decode_close(crosscoder, latents)
    found = crosscoder.decode(latents, x)
    torch.testing.assert_close(found, reconstruction.float(), **close)


def test_an_order_of_hookpoints_other_than_the_models_is_kept_apart(
    tmp_path: Path, gpt_neo: LanguageModel
) -> None:
    forward = crosscoder_compiled(tmp_path, 0)
    turned = PLACES[2], PLACES[0], PLACES[1]
    crosscoder, _ = crossproof.import_dictionary(tmp_path / "ae.pt", gpt_neo, turned)
    assert crosscoder.hookpoints.names == PLACES
    x = torch.randn(5, P, D, generator=torch.Generator().manual_seed(9))
    code, reconstruction = forward(x[:, [2, 0, 1]].double())
    latents = crosscoder.encode(x)
    torch.testing.assert_close(latents.dense(), code.float(), **encode_close(crosscoder, x))
    found = crosscoder.decode(latents)[:, [2, 0, 1]]
    close = decode_close(crosscoder, latents)
    torch.testing.assert_close(found, reconstruction.float(), **close)
