"""Dictionaries that the libraries themselves saved (tools/format_fixtures)."""

from __future__ import annotations

import pytest
import torch
from golden_formats import FIXTURES, GOLDEN
from rounding import decode_close, encode_close
from safetensors.torch import load_file
from torch import Tensor

import crossproof
from crossproof.crosscoder import Crosscoder
from crossproof.lm import LanguageModel


def norm_affine(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Weight and bias of the tiny GPT-Neo's second norm in block 1, straight from its module."""
    norm = model._bare.transformer.h[1].ln_2
    return norm.weight.detach(), norm.bias.detach()


def at(crosscoder: Crosscoder, names: tuple[str, ...], values: Tensor) -> Tensor:
    """[T, P, D] with `values` [places, T, D] at the named hookpoints, NaN-free noise elsewhere."""
    out = torch.full((values.shape[1], *crosscoder.b_dec.shape), 7.0)
    for name, value in zip(names, values, strict=True):
        out[:, crosscoder.hookpoints.index(name)] = value
    return out


def test_every_fixture_has_its_test() -> None:
    assert {folder.name for folder in FIXTURES.iterdir()} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_librarys_own_save_computes_what_the_library_computed(
    language_models: dict[str, LanguageModel], name: str
) -> None:
    golden, expected = GOLDEN[name], load_file(FIXTURES / name / "expected.safetensors")
    model = language_models[golden.model]
    crosscoder, provenance = crossproof.import_dictionary(
        FIXTURES / name / "dictionary", model, golden.given
    )
    assert set(crosscoder.hookpoints.names) == {*golden.reads, *golden.writes}
    assert provenance.weights_hash == model.weights_hash
    assert provenance.training["imported"][0]["format"] == name.split("-")[0]

    x = expected["x"].view(len(golden.reads), -1, 16)
    reconstruction = expected["reconstruction"].view(len(golden.writes), -1, 16)
    code = expected["code"].view(-1, x.shape[1], 24).transpose(0, 1).flatten(1)
    if golden.normalised:
        weight, shift = norm_affine(model)
        x = x * weight + shift
        if golden.reads == golden.writes:
            reconstruction = reconstruction * weight + shift
    read = at(crosscoder, golden.reads, x)
    if crosscoder.token_scale.kind:  # latents are of the token's own scale
        code = code * read[:, 0].std(1, keepdim=True)
    latents = crosscoder.encode(read)
    assert torch.equal(latents.dense() != 0, code != 0)
    torch.testing.assert_close(latents.dense(), code, **encode_close(crosscoder, read))
    decoded = crosscoder.decode(latents, read)
    for place, written in zip(golden.writes, reconstruction, strict=True):
        found = decoded[:, crosscoder.hookpoints.index(place)]
        torch.testing.assert_close(found, written, **decode_close(crosscoder, latents))
    for place in set(golden.reads) - set(golden.writes):
        index = crosscoder.hookpoints.index(place)
        assert index not in crosscoder.written
        assert not decoded[:, index].any()
