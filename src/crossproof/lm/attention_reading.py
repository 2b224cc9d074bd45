"""Reading `AttentionWeights` from a Hugging Face attention module, and checking the result.

The modules' own parameters and attributes say everything; no architecture is known by name. What
they leave open (the way coordinates pair up in a rotation, a bias on the scores, ...) the check
settles: the view must give the model's own attention probabilities and output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm.attention import AttentionWeights, Rotary
from crossproof.lm.blocks import is_linear, layer_weights
from crossproof.lm.sites import Site, attached

LONGEST_CHECK = 512
"""Tokens of the check at most; local attention with a longer window is checked as if global."""
_NORMS = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm")
_CHANGING_ROTARY = ("dynamic", "longrope")


def read_attention(bare: PreTrainedModel, module: nn.Module, where: str) -> AttentionWeights:
    """The attention weights of a module of `bare`; `where` names it in errors.

    Raises CrossproofError when queries and keys are not linear in the input (normalised queries
    or keys, low-rank caches, rotary angles that depend on the sequence's length), when scores are
    capped, or when there are no projections that this function knows.
    """
    if any(getattr(module, name, None) is not None for name in _NORMS):
        raise _unsupported(where, "normalises its queries and keys, so scores are not bilinear")
    if getattr(module, "attn_logit_softcapping", None) is not None:
        raise _unsupported(where, "caps its scores, so they are not bilinear")
    width = getattr(module, "head_dim", getattr(module, "head_size", None))
    projections = _projections(module, width) if isinstance(width, int) else None
    if projections is None:
        raise _unsupported(where, "does not keep its projections in a form known here")
    (W_Q, b_Q), (W_K, b_K), (W_V, b_V), (W_O, b_O) = projections
    assert isinstance(width, int)
    scaling: Any = getattr(module, "scaling", None)  # GPT-Neo has none: it does not scale
    return AttentionWeights(
        W_Q=W_Q,
        b_Q=b_Q,
        W_K=W_K,
        b_K=b_K,
        W_V=W_V,
        b_V=b_V,
        W_O=W_O,
        b_O=b_O,
        scale=1.0 if scaling is None else float(scaling),
        rotary=_rotary(bare, module, where),
        window=_window(module),
    )


def check_attention(bare: PreTrainedModel, site: Site, view: AttentionWeights, where: str) -> None:
    """Raises CrossproofError unless `view` scores and writes what the model does at `site`.

    Scores are compared as log-probabilities: a softmax does not show what it adds to a whole row.
    """
    length = min(max(16, (view.window or 0) + 2), LONGEST_CHECK)
    length = min(length, getattr(bare.config, "max_position_embeddings", None) or length)
    vocabulary = next(bare.get_input_embeddings().parameters()).shape[0]
    tokens = torch.arange(length, device=view.W_Q.device).remainder(vocabulary)[None]
    x, written, pattern = _own_attention(bare, site, tokens, where)
    scores = view.scores(x).float()
    ours, own = view.pattern(scores), pattern.float()
    seen = (ours > 1e-6) & (own > 1e-6)  # beyond that, rounding is all there is to compare
    logs = own[seen].log()
    gap, output_gap = (ours[seen].log() - logs).abs().max(), view.output(x, pattern) - written
    fine = 1e-4 if x.dtype in (torch.float32, torch.float64) else 5e-2
    rounding = 8 * torch.finfo(x.dtype).eps * scores[seen].abs().max()
    if (
        not gap <= fine * (0.1 + logs.abs().max()) + rounding
        or not (ours - own).abs().max() <= fine + rounding
        or not output_gap.abs().max() <= fine * written.abs().max()
    ):
        raise _unsupported(where, "is not of the usual bilinear form with a softmax")


def _unsupported(where: str, reason: str) -> CrossproofError:
    return CrossproofError(
        f"The attention of {where} {reason}; choose a model with plain dot-product attention."
    )


_Projection = tuple[Tensor, Tensor]
"""Weights and bias: of heads first, or of a layer, [in, out] and [out]."""


def _projections(module: nn.Module, width: int) -> list[_Projection] | None:
    """Queries, keys, values and output, or None when the module keeps them in another form."""
    parts = {name: child for name, child in module.named_children() if is_linear(child)}
    out = next((parts[n] for n in ("o_proj", "out_proj", "dense", "c_proj") if n in parts), None)
    if out is None:
        return None
    W_O, b_O = layer_weights(out)
    if len(W_O) % width:
        return None
    output = W_O.unflatten(0, (-1, width)), b_O
    if all(name in parts for name in ("q_proj", "k_proj", "v_proj")):
        layers = [layer_weights(parts[name]) for name in ("q_proj", "k_proj", "v_proj")]
        return [*(_by_head(w.unflatten(1, (-1, width)), b) for w, b in layers), output]
    fused = next((parts[n] for n in ("c_attn", "query_key_value") if n in parts), None)
    if fused is None:
        return None
    weights, bias = layer_weights(fused)
    if weights.shape[1] != 3 * len(W_O):
        return None  # fewer keys than queries, in an order of the architecture's own
    # GPT-2 stores all queries, all keys, all values; NeoX head by head.
    shape, axis = ((3, -1, width), 0) if "c_attn" in parts else ((-1, 3, width), 1)
    thirds = weights.unflatten(1, shape).unbind(axis + 1), bias.view(shape).unbind(axis)
    return [*(_by_head(w, b) for w, b in zip(*thirds, strict=True)), output]


def _by_head(weights: Float[Tensor, "D heads E"], bias: Tensor) -> _Projection:
    return weights.transpose(0, 1), bias.reshape(weights.shape[1:])


def _rotary(bare: PreTrainedModel, module: nn.Module, where: str) -> Rotary | None:
    holders: tuple[Any, ...] = (module, bare.base_model)
    rotary = next((r for h in holders if (r := getattr(h, "rotary_emb", None)) is not None), None)
    if rotary is None:
        return None
    if getattr(rotary, "rope_type", None) in _CHANGING_ROTARY:
        raise _unsupported(where, "turns by angles that depend on the sequence's length")
    frequencies = getattr(rotary, "inv_freq", None)
    if not isinstance(frequencies, Tensor):
        raise _unsupported(where, "has rotary positions without fixed frequencies")
    return Rotary(frequencies.detach(), float(getattr(rotary, "attention_scaling", 1.0)))


def _window(module: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    if hasattr(module, "attention_type"):  # GPT-Neo
        return config.window_size if module.attention_type == "local" else None
    if hasattr(module, "sliding_window"):
        own: int | None = module.sliding_window
        return own or None
    return getattr(config, "sliding_window", None) or None  # 0 where it is switched off


def _own_attention(
    bare: PreTrainedModel, site: Site, tokens: Int[Tensor, "S T"], where: str
) -> tuple[Float[Tensor, "S T D"], Float[Tensor, "S T D"], Float[Tensor, "S heads T T"]]:
    """The module's input, output and attention probabilities for some tokens."""
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor) -> None:
        seen["input"] = value.clone()

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, tuple) and all(isinstance(part, Tensor) for part in output[:2]):
            seen.update(zip(("output", "pattern"), output, strict=False))

    with _eager(bare), attached({site: keep}, tuple(tokens.shape)), torch.no_grad():
        handle = site.module.register_forward_hook(hook)
        try:
            bare(input_ids=tokens, use_cache=False)
        finally:
            handle.remove()
    if "pattern" not in seen:
        raise _unsupported(where, "does not show its probabilities")
    return seen["input"], seen["output"], seen["pattern"]


@contextmanager
def _eager(bare: PreTrainedModel) -> Iterator[None]:
    """The implementation that computes probabilities, while the block lasts."""
    model: Any = bare
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
