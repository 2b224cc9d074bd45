"""A causal language model whose activations can be read and replaced; it is never trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossproof.errors import CrossproofError, nearest
from crossproof.lm.activation import Activation
from crossproof.lm.attention import AttentionWeights
from crossproof.lm.attention_reading import check_attention, read_attention
from crossproof.lm.hookpoints import Hookpoints, resolve_hookpoints
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.sites import Site, Visit, attached

Write = Callable[[int, Tensor], None]
"""Called with a hookpoint's place in the list asked for and its value, [S,T,D]."""


class _AllReadError(Exception):
    """Ends a forward pass once every wanted hookpoint has been read."""


class LanguageModel:
    """A Hugging Face causal language model with TransformerLens hookpoint names.

    `load_model` makes one. `bare` is the model itself, which runs; `bridge` is a second view of
    the same parameters, which names hookpoints and weights; `sites` tells where in `bare` the
    hookpoints lie, in forward order.
    """

    def __init__(
        self,
        name: str,
        bare: PreTrainedModel,
        bridge: TransformerBridge,
        sites: Mapping[str, Site],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.n_blocks: int = bridge.cfg.n_layers
        self.d_model: int = bridge.cfg.d_model
        self.context: int = bridge.cfg.n_ctx
        self.vocab_size: int = next(bare.get_input_embeddings().parameters()).shape[0]
        self.device: torch.device = next(bare.parameters()).device
        self.dtype: torch.dtype = next(bare.parameters()).dtype
        self.special_ids = special_ids(bare, tokenizer, self.vocab_size)
        self._bare = bare
        self._bridge = bridge
        self._sites = sites
        self._mlps: dict[int, MLPWeights] = {}
        self._attentions: dict[int, AttentionWeights] = {}

    @cached_property
    def weights_hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 over every tensor's name, dtype, shape and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._bare.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def activation_dtype(self) -> torch.dtype:
        """The dtype of all that is read of the model, views of its weights too: float32 at least.

        Figures are sums over many of these numbers, for which half precision lacks the digits.
        """
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def n_parameters(self) -> int:
        """How many numbers the model's weights are; tied ones count once."""
        return sum(parameter.numel() for parameter in self._bare.parameters())

    def available_hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of width d_model that can be read and replaced, in forward order."""
        return tuple(self._sites)

    def hookpoints(self, patterns: Sequence[str] | None = None) -> Hookpoints:
        """The hookpoints that names or globs select, or the standard set; in forward order.

        Raises CrossproofError for a pattern that selects nothing, with the nearest names.
        """
        return resolve_hookpoints(patterns, self.available_hookpoints(), self.n_blocks)

    def mlp(self, block: int) -> MLPWeights:
        """The block's MLP, a view of the model's own weights in the space of its mlp.hook_in.

        Raises CrossproofError when the block has no dense MLP, plain or gated, that this view
        reproduces.
        """
        if not 0 <= block < self.n_blocks:
            raise CrossproofError(
                f"'{self.name}' has blocks 0 to {self.n_blocks - 1}; there is no block {block}."
            )
        if block not in self._mlps:
            weights = _mlp_weights(self._bridge, block, self.name)
            self._check_mlp(weights, block)
            self._mlps[block] = weights.to(dtype=self.activation_dtype)
        return self._mlps[block]

    def attention(self, block: int) -> AttentionWeights:
        """The block's attention, a view of the model's own weights in the space of attn.hook_in.

        Raises CrossproofError when the block has no attention that this view reproduces: scores
        bilinear in the input, rotary positions included, and a softmax.
        """
        if not 0 <= block < self.n_blocks:
            raise CrossproofError(
                f"'{self.name}' has blocks 0 to {self.n_blocks - 1}; there is no block {block}."
            )
        if block not in self._attentions:
            site = self._site(f"blocks.{block}.attn.hook_in")
            where = f"block {block} of '{self.name}'"
            weights = read_attention(self._bare, site.module, where)
            check_attention(self._bare, site, weights, where)
            self._attentions[block] = weights.to(dtype=self.activation_dtype)
        return self._attentions[block]

    def read(self, tokens: Int[Tensor, "S T"], names: Sequence[str], write: Write) -> None:
        """Hand each named hookpoint's value to `write`, and stop after the last one needed.

        The values belong to the model: `write` must copy what it keeps. Raises CrossproofError
        for an unknown hookpoint, or tokens that the model cannot take.
        """
        places: dict[Site, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(self._site(name), []).append(place)
        waiting = set(places)
        if not waiting:
            return

        def visit(site: Site, value: Tensor) -> None:
            for place in places[site]:
                write(place, value.to(self.activation_dtype))
            waiting.discard(site)
            if not waiting:
                raise _AllReadError

        with attached({site: partial(visit, site) for site in places}), torch.inference_mode():
            try:
                self._bare(input_ids=self._checked(tokens), use_cache=False)
            except _AllReadError:
                return
        unread = next(name for name in names if self._sites[name] in waiting)
        raise CrossproofError(f"The forward pass of '{self.name}' never reached '{unread}'.")

    def activations(
        self, tokens: Int[Tensor, "S T"], names: Sequence[str]
    ) -> Float[Tensor, "S T P D"]:
        """The values of the named hookpoints, in the order of `names`; see `read`."""
        out = torch.empty(
            (*tokens.shape, len(names), self.d_model),
            device=self.device,
            dtype=self.activation_dtype,
        )

        def write(place: int, value: Tensor) -> None:
            out[:, :, place] = value

        self.read(tokens, names, write)
        return out

    def logits(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "S T V"]:
        """The logits, with the values of the hookpoints in `replace` replaced by [S,T,D] tensors.

        A replaced resid_mid changes what the MLP reads and what passes it by. Raises
        CrossproofError for an unknown hookpoint or a replacement of the wrong shape.
        """
        shape = (*tokens.shape, self.d_model)
        visits = {}
        for name, value in (replace or {}).items():
            if tuple(value.shape) != shape:
                raise CrossproofError(
                    f"The replacement for '{name}' has shape {tuple(value.shape)}, not {shape}."
                )
            visits[self._site(name)] = _replacement(name, value.to(self.device, self.dtype))
        with attached(visits), torch.no_grad():
            output = self._bare(input_ids=self._checked(tokens), use_cache=False)
        logits: Tensor = output.logits.to(self.activation_dtype)
        return logits

    def log_probabilities(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "M S T V"]:
        """Log-probabilities of the next token, one model's (M = 1); `replace` as in `logits`."""
        return self.logits(tokens, replace).float().log_softmax(-1)[None]

    def token_losses(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "S T-1"]:
        """Cross-entropy of each next token, in nats; `replace` as in `logits`."""
        logits = self.logits(tokens, replace)[:, :-1].float()
        targets = tokens[:, 1:].to(self.device, torch.int64)
        return functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            raise CrossproofError(
                f"'{self.name}' has no hookpoint '{name}'.{nearest(name, self._sites)}"
            )
        return self._sites[name]

    def _checked(self, tokens: Int[Tensor, "S T"]) -> Int[Tensor, "S T"]:
        if tokens.shape[1] > self.context:
            raise CrossproofError(
                f"Sequences of {tokens.shape[1]} tokens exceed the context of '{self.name}', "
                f"{self.context}; use shorter ones."
            )
        if tokens.numel() and int(tokens.max()) >= self.vocab_size:
            raise CrossproofError(
                f"Token {int(tokens.max())} is outside the vocabulary of '{self.name}' "
                f"({self.vocab_size}); the tokens come from another tokenizer."
            )
        return tokens.to(self.device)

    def _check_mlp(self, weights: MLPWeights, block: int) -> None:
        names = [f"blocks.{block}.mlp.hook_in", f"blocks.{block}.mlp.hook_out"]
        tokens = torch.arange(min(16, self.vocab_size, self.context)).unsqueeze(0)
        read, written = self.activations(tokens, names).unbind(dim=2)
        gap = (weights.to(dtype=self.activation_dtype)(read) - written).abs().max()
        tolerance = 1e-4 if self.dtype in (torch.float32, torch.float64) else 5e-2
        if gap > tolerance * written.abs().max():
            raise CrossproofError(
                f"Block {block} of '{self.name}' has an MLP that is neither plain nor gated in the "
                f"usual form; choose blocks whose MLP is dense."
            )


def special_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int
) -> frozenset[int]:
    """The BOS, EOS and PAD ids: the tokenizer's, or without one the configuration's."""
    source = model.config if tokenizer is None else tokenizer
    found: set[int] = set()
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(source, key, None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(i for i in found if 0 <= i < vocab_size)


def _replacement(name: str, new: Tensor) -> Visit:
    def substitute(value: Tensor) -> Tensor:
        return new.to(value.dtype)

    def overwrite(value: Tensor) -> None:
        # The block adds this very tensor to the MLP's output, so writing into it reaches both.
        value.copy_(new)

    return overwrite if name.endswith(".hook_resid_mid") else substitute


def _mlp_weights(bridge: TransformerBridge, block: int, model_name: str) -> MLPWeights:
    component = getattr(bridge.blocks[block], "mlp", None)
    W_in, W_out, W_gate = (getattr(component, key, None) for key in ("W_in", "W_out", "W_gate"))
    if not isinstance(W_in, Tensor) or not isinstance(W_out, Tensor) or W_in.dim() != 2:
        raise CrossproofError(
            f"Block {block} of '{model_name}' has no dense MLP; choose blocks that have one."
        )

    def bias(key: str, width: int) -> Tensor:
        value = getattr(component, key, None)
        return W_in.new_zeros(width) if value is None else value.detach()

    return MLPWeights(
        W_in=W_in.detach(),
        b_in=bias("b_in", W_in.shape[1]),
        W_out=W_out.detach(),
        b_out=bias("b_out", W_out.shape[1]),
        activation=Activation.from_name(bridge.cfg.act_fn),
        W_gate=None if W_gate is None else W_gate.detach(),
        b_gate=None if W_gate is None else bias("b_gate", W_in.shape[1]),
    )
