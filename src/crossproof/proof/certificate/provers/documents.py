"""What a statistical certificate is made of: each held-out document's losses, by treatment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from crossproof.activations.corpus import BUNDLED, TextSlice
from crossproof.activations.rows import start_token
from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import folded_tensors
from crossproof.errors import CrossproofError, nearest
from crossproof.evaluation.patching import DecodedBatch, decode_batches
from crossproof.interactions.keeping import largest_kept
from crossproof.interactions.views import MLPView, mlp_views, seen_by
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import mlp_out

SPLICED, KEEP = "spliced", "keep-"
LOGITS, MOST_ROWS = 2**25, 16
"""Logits that are held at once, and documents that are run together."""
Progress = Callable[[int, int], None]
"""Called with documents done and their number."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents as rows of tokens, each a document of its own, no two alike."""

    tokens: Int[Tensor, "n T"]
    """From the token that begins a document on; padded with that token."""
    lengths: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, chosen: Bool[Tensor, " n"] | Int[Tensor, " k"]) -> Documents:
        """Some of them."""
        return Documents(self.tokens[chosen], self.lengths[chosen])

    @property
    def digests(self) -> np.ndarray:
        """[n, 4] int64: the SHA-256 of each one's tokens (little-endian int64)."""
        pairs = zip(self.tokens, self.lengths.tolist(), strict=True)
        raw = (row[:length].numpy().astype("<i8").tobytes() for row, length in pairs)
        digests = b"".join(hashlib.sha256(each).digest() for each in raw)
        return np.frombuffer(digests, "<i8").reshape(-1, 4).astype(np.int64)


def independent_documents(model: LanguageModel, text: TextSlice) -> Documents:
    """One row a document, in the order of the text; those that repeat an earlier one are left out.

    Of packed tokens, whose rows hold pieces of several documents, the first that begins in each
    row: what stands behind it in the row was perhaps written with it in view. Raises
    CrossproofError if the model has no token that begins documents, or fewer than two are there.
    """
    packed = text.text == BUNDLED or text.text.endswith((".safetensors", ".npy"))
    start = start_token(model)
    if start is None:
        raise CrossproofError(
            f"'{model.name}' has no BOS or EOS token to tell the documents of '{text.text}' by: a "
            f"statistical certificate needs documents."
        )
    rows = replace(text, rows="packed" if packed else "documents").read(model)
    begins = rows == start
    first = begins.int().argmax(1)
    columns = torch.arange(rows.shape[1])
    later = begins & (columns > first[:, None])
    ends = torch.where(later.any(1), later.int().argmax(1), rows.shape[1])
    lengths = torch.where(begins.any(1), ends - first, 0)
    taken = (first[:, None] + columns).clamp_max(rows.shape[1] - 1)
    tokens = rows.gather(1, taken).where(columns < lengths[:, None], torch.tensor(start))
    every = Documents(tokens, lengths)
    every = every.rows(lengths > 2)  # a prediction counts from the second token on
    distinct = {row.tobytes(): at for at, row in reversed(list(enumerate(every.digests)))}
    if len(distinct) < 2:
        raise CrossproofError(
            f"'{text.text}' has {len(distinct)} documents of three tokens or more in its "
            f"{text.split} split: a statistical certificate needs many."
        )
    return every.rows(torch.tensor(sorted(distinct.values())))


def dictionary_hash(crosscoder: Crosscoder) -> str:
    """SHA-256 over the crosscoder's configuration, hookpoints, positions and folded weights."""
    about = {
        "config": asdict(crosscoder.config),
        "hookpoints": list(crosscoder.hookpoints.names),
        "positions": asdict(crosscoder.positions),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(folded_tensors(crosscoder).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Treatments:
    """What is done to the model: hookpoints spliced, or neurons that read their largest latents."""

    spliced: tuple[str, ...] = ()
    """Hookpoints that are replaced by their reconstruction, all at once; none: no such row."""
    keep: tuple[int, ...] = (1, 2, 4, 8)
    """m, for rows in which every neuron of the MLPs reads its m largest latents."""
    mlps: tuple[int, ...] = ()
    """Blocks whose MLPs do so, all at once."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a certificate calls them."""
        return (*([SPLICED] if self.spliced else []), *(f"{KEEP}{m}" for m in self.keep))

    def checked(self, crosscoder: Crosscoder) -> Crosscoder:
        """The crosscoder; CrossproofError if it cannot be treated so, or nothing is asked for."""
        if not self.names or (self.keep and not self.mlps):
            raise CrossproofError("Nothing is to be certified: give --keep or --splice.")
        if len(set(self.names)) != len(self.names):
            raise CrossproofError("A number of latents is given twice: each needs one row.")
        names = [crosscoder.hookpoints.names[at] for at in crosscoder.written]
        for name in self.spliced:
            if name not in names:
                raise CrossproofError(
                    f"The crosscoder writes no '{name}', so that cannot be spliced in."
                    f"{nearest(name, names)}"
                )
        return crosscoder


@dataclass(frozen=True, eq=False)
class DocumentValues:
    """Sums over the predictions of each document that count."""

    tokens: np.ndarray
    """[n] int64: how many count; 0 where the dictionary's rule counts no position."""
    loss: np.ndarray
    """[n] float64, nats: the model's."""
    treated_loss: np.ndarray
    """[n, M] float64: the same of every treatment."""
    changed: np.ndarray
    """[n, M] int64: predictions whose most likely token is another than the model's."""


def document_values(
    model: LanguageModel,
    crosscoder: Crosscoder,
    documents: Documents,
    treatments: Treatments,
    progress: Progress | None = None,
) -> DocumentValues:
    """Runs model and treatments on every document; none is influenced by any other.

    Predictions count at the positions that the crosscoder's rule scores, of tokens that are the
    document's own. Raises CrossproofError as `Treatments.checked` and `mlp_views`.
    """
    crosscoder = for_figures(treatments.checked(crosscoder))
    views = mlp_views(model, crosscoder, treatments.mlps) if treatments.keep else {}
    size = max(1, min(MOST_ROWS, LOGITS // (documents.tokens.shape[1] * model.vocab_size)))
    parts = []
    for batch in decode_batches(model, crosscoder, documents.tokens, size, views):
        first = batch.encoded.first
        lengths = documents.lengths[first : first + len(batch.encoded.tokens)]
        parts.append(_values(batch, lengths, treatments, views))
        if progress is not None:
            progress(first + len(lengths), len(documents))
    counts, loss, treated, changed = (torch.cat(each).cpu().numpy() for each in zip(*parts))  # noqa: B905
    return DocumentValues(counts, loss, treated, changed)


def _values(
    batch: DecodedBatch,
    lengths: Int[Tensor, " S"],
    treatments: Treatments,
    views: Mapping[int, MLPView],
) -> Sequence[Tensor]:
    scored = batch.encoded.scored
    columns = torch.arange(1, scored.shape[1], device=scored.device)
    counted = scored[:, :-1] & (columns < lengths.to(scored.device)[:, None])
    loss, prediction = predictions(batch.model, batch.encoded.tokens)
    losses, changes = [], []
    with torch.no_grad():
        for patch in _patches(batch, treatments, views):
            treated, other = predictions(batch.model, batch.encoded.tokens, patch)
            losses.append((treated * counted).double().sum(1))
            changes.append(((other != prediction) & counted).sum(1))
    own = (loss * counted).double().sum(1)
    return counted.sum(1), own, torch.stack(losses, 1), torch.stack(changes, 1)


def predictions(
    model: LanguageModel, tokens: Int[Tensor, "S T"], replace: Mapping[str, Tensor] | None = None
) -> tuple[Float[Tensor, "S L"], Int[Tensor, "S L"]]:
    """Losses of the next tokens, nats, and the most likely ones; `replace` as in `logits`."""
    logits = model.logits(tokens, replace)[:, :-1].float()
    losses = functional.cross_entropy(logits.mT, tokens[:, 1:].long(), reduction="none")
    return losses, logits.argmax(-1)


def _patches(
    batch: DecodedBatch, treatments: Treatments, views: Mapping[int, MLPView]
) -> list[dict[str, Tensor]]:
    """What to replace, by treatment."""
    patches: list[dict[str, Tensor]] = []
    if treatments.spliced:
        at = {name: batch.crosscoder.hookpoints.index(name) for name in treatments.spliced}
        parts = [batch.patched(name, batch.x_hat[:, place]) for name, place in at.items()]
        patches.append({name: value for part in parts for name, value in part.items()})
    kept: dict[int, dict[str, Tensor]] = {m: {} for m in treatments.keep}
    for block, seen in seen_by(views, batch.encoded).items():
        sums = largest_kept(seen.dictionary, seen.latents, [m for m in treatments.keep if m])
        value, gate = seen.dictionary.sums(seen.latents)
        nothing = torch.zeros_like(value), None if gate is None else torch.zeros_like(gate)
        for m in treatments.keep:
            output = seen.dictionary.output(*(sums[m] if m else nothing))
            kept[m] |= batch.patched(mlp_out(block), output)
    return [*patches, *kept.values()]
