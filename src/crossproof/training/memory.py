"""How much memory a training takes, before it starts.

The step that will be taken is run on PyTorch's `meta` device, whose tensors have shapes and no
values, and what it allocates is counted: nothing here repeats by hand what a step keeps. Layouts
of several groups of latents count as if every group had all entries; where the number of active
latents is learned, half of all are taken to be, as they are when training begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel
from crossproof.tables import Table
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.machine import memory_in_use, memory_of
from crossproof.training.parts import part_of
from crossproof.training.passages import Passage, PassagesAt
from crossproof.training.shards import latent_shard
from crossproof.training.specs import DictionarySpec, PenalisedMLPs, specified_all
from crossproof.training.trainer import Trainer

GIB = 2**30
INITIAL_BATCHES = 4
"""Batches whose tokens estimate scale and mean and seed the latents' directions."""
SMALL = 20
"""A training whose weights, gradients and states are this part of the memory is not looked at."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of training, on the device that trains."""

    parts: Mapping[str, int]
    there: int
    """What the device has."""
    device: str

    @property
    def total(self) -> int:
        """At the peak."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.total <= self.there

    def check(self) -> None:
        """Raises CrossproofError if it does not fit."""
        if not self.fits:
            raise CrossproofError(
                f"Training would take {self.total / GIB:.1f} GiB and {self.device} has "
                f"{self.there / GIB:.1f} ({self.advice}); `--dry-run` says what takes how much.",
                code="CP-MEMORY",
            )

    @property
    def advice(self) -> str:
        """What to lower, by what takes most."""
        return LOWER[max(LOWER, key=lambda part: self.parts.get(part, 0))]

    def table(self) -> Table:
        """A row a part."""
        rows = {name: (size / GIB,) for name, size in self.parts.items()}
        rows |= {"at the peak": (self.total / GIB,), f"{self.device} has": (self.there / GIB,)}
        return Table.of("Memory of a training", ("GiB",), rows)


PARAMETERS, STATES, STEP = "parameters", "Adam's states", "a step, with gradients"
BUFFER, RUNNING, FIRST = "shuffle buffer and batch", "this process, with the model", "first batches"
PASSES = "the model's passes for terms on text"
LOWER = {
    PARAMETERS: "lower --n-latents, read fewer --hookpoints, or leave out --baseline",
    STEP: "lower --batch-tokens, --penalty-fraction or --n-latents",
    BUFFER: "lower --buffer-batches (or --buffer-tokens) or --batch-tokens",
    PASSES: "lower --penalty-fraction or --batch-tokens, or leave out terms on text",
    RUNNING: "take a smaller language model, or --dtype bfloat16",
}


def estimate_memory(model: LanguageModel, configs: Mapping[str, RunConfig]) -> MemoryEstimate:
    """Of training the dictionaries of the configurations together, as `Training.build` does.

    Raises CrossproofError as that does for hookpoints and settings that cannot be.
    """
    return estimate_specs(model, specified_all(model, configs))


def check_memory(model: LanguageModel, specs: Sequence[DictionarySpec]) -> None:
    """Raises CrossproofError for a training that the device cannot hold.

    Small ones are not looked at: they would wait for an answer that is known.
    """
    own = sum(_bytes([*_bare(model, spec).parameters()]) for spec in specs)
    if 4 * own > memory_of(model.device) / SMALL:
        estimate_specs(model, specs).check()


def estimate_specs(model: LanguageModel, specs: Sequence[DictionarySpec]) -> MemoryEstimate:
    """Of training dictionaries together."""
    names = [name for spec in specs for name in (*spec.plan.hookpoints.names, *spec.about.streams)]
    names = list(dict.fromkeys(names))
    config = specs[0].config
    tokens = distributed.share_of(config.batch_tokens)
    shared = latent_shard().count
    batch = torch.empty(tokens * shared, len(names), model.d_model, device="meta")
    made = [_on_meta(model, spec, names) for spec in specs]
    weights = [_bytes([*t.crosscoder.parameters(), *t.crosscoder.buffers()]) for t in made]
    peaks = [_peak(trainer, batch) for trainer in made]
    # Other trainers keep the gradients of their last step meanwhile.
    kept = sum(weights)
    step = max(peak + kept - own for peak, own in zip(peaks, weights, strict=True))
    widest = max(spec.config.crosscoder.n_latents for spec in specs)
    first = _first_batches(INITIAL_BATCHES * tokens, batch[0].numel(), widest)
    parts = {
        RUNNING: memory_in_use(model.device),
        PARAMETERS: sum(weights),
        STATES: 2 * sum(weights),
        BUFFER: 4 * batch[0].numel() * tokens * (config.shuffled_batches + 2),
        STEP: step,
        FIRST: max(0, first - step - 2 * sum(weights)),  # these come later
    }
    if passes := max(_passes(model, _passage_tokens(model, spec)) for spec in specs):
        parts[PASSES] = passes
    return MemoryEstimate(parts, memory_of(model.device), str(model.device))


def _first_batches(tokens: int, width: int, n_latents: int) -> int:
    """What initialising takes: the tokens scaled, centred and normalised, beside the similarities
    of any two of them or, later, their pre-activations and what is chosen from those."""
    return 4 * tokens * (4 * width + max(2 * tokens, 3 * n_latents))


def _passes(model: LanguageModel, tokens: int) -> int:
    """What passes of the language model with an MLP replaced keep for their gradients: some twenty
    vectors a block and token, half of which the attention's and the MLP's widths decide, and
    logits, their softmax and its gradient for both passes."""
    each = 20 * model.n_blocks * model.d_model + 5 * model.vocab_size
    return 4 * tokens * each


def _on_meta(model: LanguageModel, spec: DictionarySpec, names: Sequence[str]) -> Trainer:
    """The dictionary's trainer, without values."""
    about = spec.about
    bare = PenalisedMLPs(
        {at: _meta(mlp) for at, mlp in about.at_inputs.items()},
        about.second_norms,
        tuple((_meta(mlp), reading) for mlp, reading in about.upstream),
        about.streams,
    )
    whole = _meta_passages(model, spec, len(names))
    trainer = replace(spec, about=bare).trainer(_bare(model, spec), names, whole)
    trainer.step_index = spec.config.steps - 1  # all terms have begun
    return trainer


def _meta_passages(model: LanguageModel, spec: DictionarySpec, width: int) -> PassagesAt | None:
    """Sequences without values, one of whose MLPs is replaced; None if no term needs them."""
    tokens = _passage_tokens(model, spec)
    activations = torch.empty(tokens, width, model.d_model, device="meta")
    return (lambda _: [Passage(0, activations, torch.Tensor.sum)]) if tokens else None


def _passage_tokens(model: LanguageModel, spec: DictionarySpec) -> int:
    """One sequence at least, if any."""
    tokens = spec.passage_tokens(distributed.share_of(spec.config.batch_tokens))
    return max(tokens, min(spec.config.context, model.context)) if tokens else 0


def _bare(model: LanguageModel, spec: DictionarySpec) -> Crosscoder:
    plan, shard = spec.plan, latent_shard()
    with torch.device("meta"):
        whole = Crosscoder(spec.config.crosscoder, plan.hookpoints, model.d_model, plan.layout)
        return part_of(whole, shard)


def _meta(mlp: MLPWeights) -> MLPWeights:
    return mlp.to(device="meta")


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in tensors)


def _peak(trainer: Trainer, batch: Tensor) -> int:
    """Bytes that the second of two steps allocates at most: gradients of the first are there."""
    with _Counted() as counted:
        for _ in range(2):
            report = trainer.loss(trainer.read(batch))
            trainer.adam.zero_grad(set_to_none=True)
            report.loss.backward()
            del report
    return int(counted.peak)


class _Counted(TorchDispatchMode):
    """Counts the storages that operations in the block allocate, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf) not in given | self._alive:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storage(leaf: Any) -> int:
    return int(leaf.untyped_storage()._cdata) if isinstance(leaf, Tensor) else 0
