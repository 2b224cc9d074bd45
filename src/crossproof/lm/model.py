"""A causal language model whose activations can be read and replaced; it is never trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossproof.errors import CrossproofError, nearest
from crossproof.lm.attention import AttentionWeights
from crossproof.lm.attention_reading import check_attention, read_attention
from crossproof.lm.hookpoints import Hookpoints, resolve_hookpoints
from crossproof.lm.mixture import MixtureWeights, experts_of, read_mixture
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.mlp_reading import read_mlp
from crossproof.lm.resuming import Resuming
from crossproof.lm.sites import Site, Visit, attached
from crossproof.lm.structure import Structure
from crossproof.lm.tracing import context_of
from crossproof.lm.visits import AllReadError, hand_over, live_visits, replacement, store
from crossproof.lm.visits import Write as Write
from crossproof.lm.vocabulary import special_ids


class LanguageModel:
    """A Hugging Face causal language model with TransformerLens hookpoint names.

    `load_model` makes one. `bare` is the model itself, which runs; `structure` tells where in it
    the hookpoints lie.
    """

    def __init__(
        self,
        name: str,
        bare: PreTrainedModel,
        structure: Structure,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.n_blocks: int = structure.n_blocks
        self.d_model: int = structure.d_model
        self.context: int = context_of(bare)
        self.vocab_size: int = next(bare.get_input_embeddings().parameters()).shape[0]
        self.device: torch.device = next(bare.parameters()).device
        self.dtype: torch.dtype = next(bare.parameters()).dtype
        self.special_ids = special_ids(bare.config, tokenizer, self.vocab_size)
        self._bare = bare
        self._structure = structure
        self._sites = structure.sites
        self._mlps: dict[int, MLPWeights] = {}
        self._mixtures: dict[int, MixtureWeights] = {}
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

    def owner(self, block: int) -> tuple[LanguageModel, int]:
        """The model that has a block, and its number there: itself, unless it is a pair."""
        return self, block

    def rewrites(self, block: int, whole: bool) -> bool:
        """Whether what leaves a block (else what its MLP reads) is the stream before it scaled or
        normed, so that what was written there is no summand of it."""
        return (block, whole) in self._structure.rewritten

    def available_hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of width d_model that can be read and replaced, in forward order."""
        return tuple(self._sites)

    def missing_hookpoints(self) -> dict[str, str]:
        """Hookpoints that other models have and this one lacks, and why, in a few words each."""
        return self._structure.absent | self._structure.unreadable

    def hookpoints(self, patterns: Sequence[str] | None = None) -> Hookpoints:
        """The hookpoints that names or globs select, or the standard set; in forward order.

        Raises CrossproofError for a pattern that selects nothing, with the nearest names, and for
        one that selects a hookpoint that the architecture has but that cannot be read.
        """
        structure = self._structure
        return resolve_hookpoints(
            patterns,
            self.available_hookpoints(),
            self.n_blocks,
            structure.absent,
            structure.unreadable,
        )

    def mlp(self, block: int) -> MLPWeights:
        """The block's MLP, a view of the model's own weights in the space of its mlp.hook_in.

        Raises CrossproofError when the block has no dense MLP, plain or gated, that this view
        reproduces.
        """
        if self.is_mixture(block):
            kind = type(self._site(f"blocks.{block}.mlp.hook_in").module).__name__
            raise CrossproofError(
                f"Block {block} of '{self.name}' has a mixture of experts ({kind}), which "
                f"`measure`, `evaluate` and `cluster` read expert by expert; penalties, audits and "
                f"bounds need a dense MLP: choose blocks that have one, or train at strengths 0.",
                code="CP-ARCHITECTURE",
            )
        if block not in self._mlps:
            at = f"blocks.{block}.mlp.hook_"
            sites = self._site(at + "in"), self._site(at + "out")
            where = f"Block {block} of '{self.name}'"
            self._mlps[block] = read_mlp(self._bare, sites, self._tried(block), where)
        return self._mlps[block]

    def is_mixture(self, block: int) -> bool:
        """Whether the block's MLP is a mixture of experts."""
        name = f"blocks.{self._checked_block(block)}.mlp.hook_in"
        return name in self._sites and experts_of(self._sites[name].module) is not None

    def mixture(self, block: int) -> MixtureWeights:
        """The block's mixture of experts, views of the model's own weights, and its router.

        Raises CrossproofError for a dense MLP, and for a mixture of another form.
        """
        if not self.is_mixture(block):
            raise CrossproofError(f"Block {block} of '{self.name}' has no mixture of experts.")
        if block not in self._mixtures:
            site = self._site(f"blocks.{block}.mlp.hook_in")
            read, written = (value.flatten(0, 1) for value in self._tried(block))
            where = f"Block {block} of '{self.name}'"
            self._mixtures[block] = read_mixture(self._bare, site, (read, written), where)
        return self._mixtures[block]

    def _tried(self, block: int) -> tuple[Float[Tensor, "1 T D"], Float[Tensor, "1 T D"]]:
        """What a block's MLP takes and gives on a few tokens."""
        names = [f"blocks.{block}.mlp.hook_in", f"blocks.{block}.mlp.hook_out"]
        tokens = torch.arange(min(16, self.vocab_size, self.context)).unsqueeze(0)
        read, written = self.activations(tokens, names).unbind(dim=2)
        return read, written

    def attention(self, block: int) -> AttentionWeights:
        """The block's attention, a view of the model's own weights in the space of attn.hook_in.

        Raises CrossproofError when the block has no attention that this view reproduces: scores
        bilinear in the input, rotary positions included, and a softmax.
        """
        if self._checked_block(block) not in self._attentions:
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

        hand = partial(hand_over, write, self.activation_dtype, places, waiting)
        visits = {site: partial(hand, site) for site in places}
        with attached(visits, tuple(tokens.shape)), torch.inference_mode():
            try:
                self._bare(input_ids=self._checked(tokens), use_cache=False)
            except AllReadError:
                return
        unread = next(name for name in names if self._sites[name] in waiting)
        raise CrossproofError(f"The forward pass of '{self.name}' never reached '{unread}'.")

    def activations(
        self, tokens: Int[Tensor, "S T"], names: Sequence[str]
    ) -> Float[Tensor, "S T P D"]:
        """The values of the named hookpoints, in the order of `names`; see `read`."""
        shape = *tokens.shape, len(names), self.d_model
        out = torch.empty(shape, device=self.device, dtype=self.activation_dtype)
        self.read(tokens, names, partial(store, out))
        return out

    def logits(
        self, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "S T V"]:
        """The logits, with the values of the hookpoints in `replace` replaced by [S,T,D] tensors.

        A replaced resid_mid changes what the MLP reads and what passes it by. Raises
        CrossproofError for an unknown hookpoint or a replacement of the wrong shape.
        """
        shape = (*tokens.shape, self.d_model)
        visits: dict[Site, Visit] = {}
        for name, value in (replace or {}).items():
            if tuple(value.shape) != shape:
                raise CrossproofError(
                    f"The replacement for '{name}' has shape {tuple(value.shape)}, not {shape}."
                )
            visits[self._site(name)] = replacement(name, value.to(self.device, self.dtype))
        return self._visited(tokens, visits)

    def live_logits(
        self,
        tokens: Int[Tensor, "S T"],
        read: Mapping[str, Callable[[Tensor], None]],
        write: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> Float[Tensor, "S T V"]:
        """The logits of a pass in which some hookpoints are shown and others replaced as it runs.

        Functions of `write` get the value [S, T, D] there and return what takes its place. Raises
        CrossproofError for unknown hookpoints.
        """
        return self._visited(tokens, live_visits(self._site, read, write))

    def _visited(
        self, tokens: Int[Tensor, "S T"], visits: Mapping[Site, Visit]
    ) -> Float[Tensor, "S T V"]:
        with attached(visits, tuple(tokens.shape)), torch.no_grad():
            output = self._bare(input_ids=self._checked(tokens), use_cache=False)
        logits: Tensor = output.logits.to(self.activation_dtype)
        return logits

    @cached_property
    def _resuming(self) -> Resuming:
        return Resuming(self._bare, self._sites, self.n_blocks)

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
            why = self.missing_hookpoints().get(name)
            end = f": {why}." if why else f".{nearest(name, self._sites)}"
            raise CrossproofError(f"'{self.name}' has no hookpoint '{name}'{end}")
        return self._sites[name]

    def _checked(self, tokens: Int[Tensor, "S T"]) -> Int[Tensor, "S T"]:
        if tokens.shape[1] > self.context:
            raise CrossproofError(
                f"Sequences of {tokens.shape[1]} tokens exceed the context of '{self.name}', "
                f"{self.context}; use shorter ones.",
                code="CP-TOKENS",
            )
        ends = torch.stack(torch.aminmax(tokens)).tolist() if tokens.numel() else []
        strange = [token for token in ends if not 0 <= token < self.vocab_size]
        if strange:
            raise CrossproofError(
                f"Token {strange[0]} is outside the vocabulary of '{self.name}' "
                f"({self.vocab_size}); the tokens come from another tokenizer.",
                code="CP-TOKENS",
            )
        return tokens.to(self.device)

    def _checked_block(self, block: int) -> int:
        if not 0 <= block < self.n_blocks:
            raise CrossproofError(
                f"'{self.name}' has blocks 0 to {self.n_blocks - 1}; there is no block {block}."
            )
        return block
