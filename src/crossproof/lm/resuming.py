"""Forward passes that start in the middle: modules whose output is known are not run again.

A pass with hookpoints replaced equals the clean pass up to the first of them. The model's own code
runs all the same, with its masks and positions, but blocks before that hookpoint, and the attention
before it in its block, only hand on what they gave in the clean pass. No architecture is known by
name: every start is tried once on a few tokens, and where it does not give what the whole pass
gives, to the last bit, whole passes are run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossproof.lm.sites import Site, Visit, attached
from crossproof.lm.tracing import FORWARD_ERRORS, check_tokens, is_close

Values = Mapping[Site, Tensor]
"""What passes sites, each [S,T,D]."""


@dataclass(frozen=True)
class Form:
    """How a module gives its one vector a token: in which dtype, alone or first of several."""

    dtype: torch.dtype
    flat: bool
    """All sequences in one row (OPT's MLP)."""
    container: type | None
    others: int
    """What else it gives is None instead: whether anything reads it, a trial shows."""

    @classmethod
    def of(cls, output: Any) -> Form:
        """The form of a module's output."""
        several = isinstance(output, tuple | list)
        value, *others = output if several else (output,)
        return cls(value.dtype, value.dim() == 2, type(output) if several else None, len(others))

    def give(self, value: Float[Tensor, "S T D"]) -> Any:
        """The output that holds `value`; a copy, because some blocks write into what they get."""
        tensor = value.to(self.dtype, copy=True)
        tensor = tensor.flatten(0, 1) if self.flat else tensor
        return self.container([tensor, *[None] * self.others]) if self.container else tensor


Start = Mapping[Site, Site]
"""Where a patched pass starts: by the outputs of modules that are not run, whose values they give.

Empty: at the tokens.
"""


@dataclass(eq=False)
class Resuming:
    """Where the passes of one model may start; tried when first asked for."""

    bare: PreTrainedModel
    sites: Mapping[str, Site]
    """Its hookpoints, in forward order."""
    n_blocks: int
    _tried: dict[frozenset[Site], bool] = field(default_factory=dict)
    _forms: dict[Site, Form] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = {site: at for at, site in enumerate(dict.fromkeys(self.sites.values()))}
        blocks = range(self.n_blocks)
        self._outputs = [self.sites[f"blocks.{i}.hook_resid_post"] for i in blocks]
        inputs = [self.sites[f"blocks.{i}.hook_resid_pre"] for i in blocks]
        self._streams = [*inputs, self._outputs[-1]]
        names = [f"blocks.{i}.{part}.hook_out" for i in blocks for part in ("attn", "mlp")]
        self._parts = [self.sites[name] for name in names if name in self.sites]

    @property
    def last(self) -> Site:
        """What leaves the last block."""
        return self._outputs[-1]

    def start(self, replaced: Collection[Site]) -> Start:
        """The latest start of a pass with these sites replaced; with none, behind all blocks."""
        first = min((self._order[site] for site in replaced), default=len(self._order))
        done = [site for site in self._outputs if self._order[site] <= first]
        stream = done[-1] if done and done[-1] in replaced else self._streams[len(done)]
        blocks = dict.fromkeys(done, stream)
        given = [site for site in (*self._outputs, *self._parts) if site in replaced]
        begin = self._order[self._streams[len(done)]]
        before = [part for part in self._parts if begin < self._order[part] < first]
        starts = blocks | {site: site for site in (*given, *before)}, blocks
        return next((start for start in starts if self._holds(start, replaced)), {})

    def needs(self, replaced: Collection[Site]) -> list[Site]:
        """The sites whose values in the clean pass a pass with these replaced starts from."""
        sources = dict.fromkeys(self.start(replaced).values())
        return [site for site in sources if site not in replaced]

    def run(
        self,
        tokens: Int[Tensor, "S T"],
        start: Start,
        visits: Mapping[Site, Visit],
        values: Values,
        gradients: bool = False,
    ) -> Float[Tensor, "S t V"]:
        """The logits; modules of `start` give `values`, what passes other sites is visited.

        With `gradients` they are differentiable in `values` and in what visits put in.
        """
        outputs = {out.module: self._forms[out].give(values[at]) for out, at in start.items()}
        visits = {site: visit for site, visit in visits.items() if site not in start}
        recording = gradients and torch.is_grad_enabled()
        seen = attached(visits, tuple(tokens.shape))
        with torch.set_grad_enabled(recording), seen, _known(outputs):
            logits: Tensor = self.bare(input_ids=tokens, use_cache=False).logits
        return logits

    @cached_property
    def head(self) -> Site | None:
        """What the unembedding reads, where positions may be left out; None where they may not."""
        head, start = self.sites.get("unembed.hook_in"), self.start(())
        if head is None or not start:
            return None
        tokens = check_tokens(self.bare)
        values = self._clean(tokens, [self.last])
        whole = self.run(tokens, start, {}, values)
        try:
            part = self.run(tokens, start, {head: partial(cut, slice(0, 1))}, values)
        except FORWARD_ERRORS:
            return None
        return head if part.shape[1] == 1 and is_close(part, whole[:, :1]) else None

    def _holds(self, start: Start, replaced: Collection[Site]) -> bool:
        """Whether a pass from there gives what a whole one gives, on a few tokens."""
        key = frozenset(start)
        if key not in self._tried:
            self._tried[key] = not key or self._try(start, replaced)
        return self._tried[key]

    def _try(self, start: Start, replaced: Collection[Site]) -> bool:
        tokens = check_tokens(self.bare)
        clean = self._clean(tokens, {*start, *start.values(), *replaced})
        # Another text's values: two sequences change places.
        other = {site: clean[site].flip(0) for site in replaced}
        visits: dict[Site, Visit] = {site: partial(_give, value) for site, value in other.items()}
        try:
            whole = self.run(tokens, {}, visits, {})
            self.run(tokens.flip(0), {}, {}, {})  # what modules remember is another text's then
            resumed = self.run(tokens, start, visits, {**clean, **other})
        except FORWARD_ERRORS:
            return False
        return torch.equal(whole, resumed)

    def _clean(self, tokens: Int[Tensor, "S T"], sites: Collection[Site]) -> dict[Site, Tensor]:
        """Values in the clean pass, and the forms of the modules that give them."""
        values: dict[Site, Tensor] = {}
        visits: dict[Site, Visit] = {site: partial(_keep, values, site) for site in sites}
        handles = [
            site.module.register_forward_hook(partial(self._learn, site))
            for site in sites
            if not site.at_input
        ]
        try:
            self.run(tokens, {}, visits, {})
        finally:
            for handle in handles:
                handle.remove()
        return values

    def _learn(self, site: Site, _module: nn.Module, _args: Any, output: Any) -> None:
        self._forms[site] = Form.of(output)


def cut(part: slice, value: Float[Tensor, "S T D"]) -> Float[Tensor, "S t D"]:
    """Some positions, as a visit."""
    return value[:, part]


def _keep(values: dict[Site, Tensor], site: Site, value: Tensor) -> None:
    values[site] = value.clone()


def _give(new: Tensor, value: Tensor) -> Tensor:
    return new.to(value.dtype, copy=True)


@contextmanager
def _known(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Modules give these outputs instead of running; their hooks are called all the same."""
    before = {module: vars(module).get("forward") for module in outputs}
    try:
        for module, output in outputs.items():
            vars(module)["forward"] = partial(_answer, output)
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


def _answer(output: Any, *_args: Any, **_kwargs: Any) -> Any:
    return output
