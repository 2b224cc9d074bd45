"""A dictionary at work inside a forward pass: what it writes follows from what it reads there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.autograd import at_places, decode_with_vectors, rows_of
from crossproof.crosscoder.layout import PlaceSpan
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.side_by_side import SideBySide
from crossproof.crosscoder.sparsity import TopK


def why_not_live(crosscoder: Crosscoder) -> str:
    """Why its outputs cannot take the model's place within one pass; "" if they can."""
    layout = crosscoder.layout
    late = [(max(group.reads), min(group.writes)) for group in layout.groups]
    if any(read >= written for read, written in (*late, *layout.skips)):
        return "it reads at or behind what it writes"
    if not _chooses_in_time(crosscoder):
        return "its k largest latents are chosen among places that come one after another"
    return ""


def _chooses_in_time(crosscoder: Crosscoder) -> bool:
    """Whether every k largest latents are chosen among latents that read the same places."""
    rule, count = crosscoder.sparsity, crosscoder.n_latents
    starts: list[int] = [0]
    rules: list[object] = [rule]
    if isinstance(rule, SideBySide):
        starts, rules = [span.start for span in rule.spans], list(rule.rules)
    changes = [span.start for span in crosscoder.layout.reading]
    for start, stop, each in zip(starts, [*starts[1:], count], rules, strict=True):
        if isinstance(each, TopK):
            size = (stop - start) // each.groups
            if any(start < at < stop and (at - start) % size for at in changes):
                return False
    return True


class LivePass:
    """One forward pass: give it what is read, in order, and ask for what is written.

    Latents whose places have all been read are encoded at once, and write where they write.
    """

    def __init__(self, crosscoder: Crosscoder, n_tokens: int) -> None:
        self.crosscoder = crosscoder
        shape = (n_tokens, *crosscoder.b_dec.shape)
        self.x = crosscoder.b_dec.new_zeros(shape)
        self.written = crosscoder.b_dec.detach().expand(shape).clone()
        self.seen: set[int] = set()
        self.waiting = list(crosscoder.layout.reading)
        self.active_parameters = crosscoder.b_dec.new_zeros(n_tokens)

    @torch.no_grad()
    def read(self, place: int, values: Float[Tensor, "B D"]) -> None:
        """Raw activations at a hookpoint."""
        crosscoder = self.crosscoder
        self.x[:, place] = values.to(self.x) * crosscoder.scale[place]
        self.seen.add(place)
        ready = [span for span in self.waiting if set(span.places) <= self.seen]
        self.waiting = [span for span in self.waiting if span not in ready]
        for span in ready:
            self._encode(span)
        for at, (read, written) in enumerate(crosscoder.layout.skips):
            if read == place:
                self.written[:, written] += self.x[:, read] @ crosscoder.W_skip[at]

    def write(self, place: int) -> Float[Tensor, "B D"]:
        """What takes the place of the model's own at a hookpoint, raw."""
        return self.written[:, place] / self.crosscoder.scale[place]

    def _encode(self, span: PlaceSpan) -> None:
        crosscoder = self.crosscoder
        pre = self.x.new_full((len(self.x), crosscoder.n_latents), -torch.inf)
        weights = rows_of(crosscoder.W_enc, span)
        pre[:, span.rows] = at_places(self.x, span) @ weights.T + crosscoder.b_enc[span.rows]
        selected = crosscoder.sparsity.select(pre)
        latents = crosscoder.sparsity.activate(selected.keep(selected.values > -torch.inf))
        writing, n_places = crosscoder.layout.writing, self.x.shape[1]
        self.written += decode_with_vectors(latents, crosscoder.W_dec, writing, n_places)[0]
        sizes = latent_parameters(crosscoder)[latents.indices] * (latents.values != 0)
        self.active_parameters.index_add_(0, latents.token_index, sizes.to(self.x))


def latent_parameters(crosscoder: Crosscoder) -> Float[Tensor, " H"]:
    """How many numbers each latent is: its vectors at all its places, and its bias."""
    sizes = [
        torch.full(
            (group.latents,), (len(group.reads) + len(group.writes)) * crosscoder.d_model + 1
        )
        for group in crosscoder.layout.groups
    ]
    return torch.cat(sizes).to(crosscoder.b_dec)
