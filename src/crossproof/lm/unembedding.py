"""A model's norms and unembedding as float64 weights, checked against the model itself.

The modules say what their weights are; what they leave open (whether a norm subtracts the mean,
whether its weights are stored less one) the check settles: the view must give what the model has
at the hookpoints on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm

CHECK_TOKENS = 16
_EPSILONS = ("eps", "variance_epsilon", "epsilon")


@dataclass(frozen=True, eq=False)
class Unembedding:
    """logits = norm(r) weightᵀ + bias, r being the residual stream behind the last block."""

    norm: Norm
    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"]

    @classmethod
    def of(cls, model: LanguageModel) -> Unembedding:
        """The model's own, as `unembedding`, which says what it raises."""
        return unembedding(model)

    def __call__(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V"]:
        """The logits of residual streams behind the last block."""
        return self.norm(r) @ self.weight.T + self.bias

    @property
    def offsets(self) -> Float[Tensor, " V"]:
        """What biases alone add to each logit."""
        return self.norm.bias @ self.weight.T + self.bias


def mlp_norm(model: LanguageModel, block: int) -> Norm:
    """The norm from a block's resid_mid to its mlp.hook_in.

    Raises CrossproofError where there is none: parallel attention and MLP, norms of other forms.
    """
    return _block_norm(model, block, "hook_resid_mid", "ln2", "mlp.hook_in")


def attention_norm(model: LanguageModel, block: int) -> Norm:
    """The norm from a block's resid_pre to its attn.hook_in; raises CrossproofError likewise."""
    return _block_norm(model, block, "hook_resid_pre", "ln1", "attn.hook_in")


def input_norm(model: LanguageModel, block: int, component: Literal["attn", "mlp"]) -> Norm:
    """The norm whose output a block's attention or MLP reads, wherever its input comes from.

    Unlike `mlp_norm` it says nothing about the residual stream, so blocks that run attention and
    MLP at once have one. Raises CrossproofError where there is none.
    """
    kind = {"attn": "ln1", "mlp": "ln2"}[component]
    return _block_norm(model, block, f"{kind}.hook_in", kind, f"{component}.hook_in")


def norm_of(model: LanguageModel, component: str, written: str | None = None) -> Norm:
    """A norm of the model by the name of its module, such as "blocks.0.ln2".

    It is checked between the module's input and its output, or the hookpoint `written`. Raises
    CrossproofError where the module is missing or no LayerNorm or RMSNorm.
    """
    before, after = f"{component}.hook_in", written or f"{component}.hook_out"
    lacking = [name for name in (before, after) if name not in model.available_hookpoints()]
    if not lacking:
        read, out = model.activations(_tokens(model), [before, after]).double().unbind(2)
        for norm in _candidates(model, component):
            if _same(model, norm(read), out):
                return norm
    raise CrossproofError(
        f"'{model.name}' has no LayerNorm or RMSNorm between {before} and {after}, so its MLP "
        f"cannot be read from the residual stream; measure a dictionary at the MLP's input."
    )


def reads_the_stream(model: LanguageModel, block: int) -> bool:
    """Whether a block's MLP reads, without a norm, the stream to which attention has added."""
    roles = ("hook_resid_pre", "hook_attn_out", "mlp.hook_in")
    names = [f"blocks.{block}.{role}" for role in roles]
    if any(name not in model.available_hookpoints() for name in names):
        return False
    pre, attended, read = model.activations(_tokens(model), names).double().unbind(2)
    return _same(model, pre + attended, read)


def unembedding(model: LanguageModel) -> Unembedding:
    """The final norm and the unembedding.

    Raises CrossproofError unless they alone lie between the last resid_post and the logits (a
    model that caps or scales its logits has no such view).
    """
    head = model._bare.get_output_embeddings()
    if not isinstance(getattr(head, "weight", None), Tensor):
        raise _unsupported(model, "has no linear unembedding")
    weight = head.weight.detach().double()
    bias = getattr(head, "bias", None)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
    tokens = _tokens(model)
    last = f"blocks.{model.n_blocks - 1}.hook_resid_post"
    read = model.activations(tokens, [last])[:, :, 0].double()
    written = model.logits(tokens).double()
    for norm in _candidates(model, "ln_final"):
        view = Unembedding(norm, weight, bias)
        if _same(model, view(read), written):
            return view
    raise _unsupported(model, "has more than a norm and a linear map before its logits")


def check_sequential(model: LanguageModel, block: int) -> None:
    """Raises CrossproofError unless attention and MLP each add their output to the stream."""
    roles = ("hook_resid_pre", "attn.hook_out", "hook_resid_mid", "mlp.hook_out", "hook_resid_post")
    names = [f"blocks.{block}.{role}" for role in roles]
    _require(model, names, block)
    pre, attended, mid, moved, post = model.activations(_tokens(model), names).double().unbind(2)
    if not (_same(model, pre + attended, mid) and _same(model, mid + moved, post)):
        raise _unsupported(model, f"does more in block {block} than add attention and MLP")


def _block_norm(model: LanguageModel, block: int, before: str, kind: str, after: str) -> Norm:
    names = [f"blocks.{block}.{role}" for role in (before, after)]
    _require(model, names, block)
    read, written = model.activations(_tokens(model), names).double().unbind(2)
    for norm in _candidates(model, f"blocks.{block}.{kind}"):
        if _same(model, norm(read), written):
            return norm
    raise _unsupported(model, f"has no LayerNorm or RMSNorm between {names[0]} and {names[1]}")


def _require(model: LanguageModel, names: list[str], block: int) -> None:
    missing = [name for name in names if name not in model.available_hookpoints()]
    if missing:
        raise _unsupported(
            model, f"lacks {', '.join(missing)} (block {block} may run attention and MLP at once)"
        )


def _candidates(model: LanguageModel, component: str) -> Iterator[Norm]:
    """Every reading of a norm's module: with and without centring, weights as they are or plus 1.

    None where the module is not a norm of that kind.
    """
    site = model._sites.get(f"{component}.hook_in")
    module = None if site is None else site.module
    weight = getattr(module, "weight", None)
    epsilon = next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or epsilon is None:
        return
    bias = getattr(module, "bias", None)
    plain = weight.detach().double()
    shift = torch.zeros_like(plain) if bias is None else bias.detach().double()
    first = Norm(plain, shift, float(epsilon), isinstance(module, nn.LayerNorm))
    for extra, swap in product((0.0, 1.0), (False, True)):
        yield replace(first, weight=plain + extra, centred=first.centred != swap)


def _tokens(model: LanguageModel) -> Int[Tensor, "S T"]:
    count = min(CHECK_TOKENS, model.vocab_size, model.context)
    return torch.arange(count).flip(0).unsqueeze(0)


def _same(
    model: LanguageModel, ours: Float[Tensor, "*shape"], theirs: Float[Tensor, "*shape"]
) -> bool:
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _unsupported(model: LanguageModel, why: str) -> CrossproofError:
    return CrossproofError(
        f"'{model.name}' {why}; attribution needs a model whose blocks add attention and MLP in "
        f"turn and whose logits are a norm and a linear map."
    )
