"""The end of a language model, from the entry of one of its last MLPs on, with rounding counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import part_of
from crossproof.proof.certificate.format_contexts import ContextsCertificate, ContextStatement
from crossproof.proof.certificate.result_contexts import ContextBound
from crossproof.proof.certificate.verifier.arithmetic import UNIT, Array, Indices, gamma
from crossproof.proof.certificate.verifier.layers import (
    AttentionLayer,
    Linear,
    MLPLayer,
    NormLayer,
    Rows,
    bounded,
    length,
    lengths,
)
from crossproof.proof.certificate.verifier.logits import Logits

CHUNK = 2**22
"""Numbers of contributions that are sorted together."""


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What the model itself does at the listed contexts."""

    entry: Rows
    """The stream at the entry of the first of the MLPs [S, T, D]."""
    before: Rows
    """The stream at the entry of the last MLP [S, T, D]."""
    own: list[Rows]
    """What each MLP puts out [S, T, D]."""
    best: Indices
    """The class that is certainly the most likely at each prediction that counts; else -1."""
    loss: Array
    """Of these predictions, nats."""
    loss_error: Array
    """How far it may be off."""


@dataclass(frozen=True, eq=False)
class ModelEnd:
    """The model from the entry of its last MLP, or of the last but one, on."""

    certificate: ContextsCertificate

    def part(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors below `name.`."""
        return part_of(self.certificate.tensors, name)

    def norm(self, name: str) -> NormLayer:
        """One of the norms."""
        held, shape = self.part(f"weights.{name}"), self.certificate.shape
        ends = held["norm_weight"], held["norm_bias"]
        return NormLayer(*ends, shape.epsilons[name], shape.centred[name])

    def mlp(self, at: int) -> MLPLayer:
        """One of the MLPs."""
        held = self.part(f"weights.mlp{at}")
        gate = Linear(held["W_gate"], held["b_gate"]) if "W_gate" in held else None
        reads, writes = (Linear(held[f"W_{end}"], held[f"b_{end}"]) for end in ("in", "out"))
        return MLPLayer(reads, writes, self.certificate.shape.activations[at], gate)

    @cached_property
    def attention(self) -> AttentionLayer:
        """The attention between the last two MLPs."""
        held, shape = self.part("weights.attention"), self.certificate.shape
        queries, keys, values = (
            [Linear(W, b) for W, b in zip(held[f"W_{k}"], held[f"b_{k}"], strict=True)]
            for k in "QKV"
        )
        nothing = np.zeros(len(held["b_O"]))
        writes = [Linear(W, nothing) for W in held["W_O"]]
        turns = (held["cos"], held["sin"]) if shape.rotary else None
        bias, scale, window = held["b_O"], shape.scale, shape.window
        return AttentionLayer(queries, keys, values, writes, bias, scale, window, turns)

    @cached_property
    def scored(self) -> np.ndarray:
        """[S, T]: where the dictionary has a code."""
        scored: np.ndarray = self.certificate.tensors["contexts.scored"] == 1
        return scored

    @cached_property
    def counted(self) -> np.ndarray:
        """[S, T]: predictions that count, those of scored positions before the last."""
        counted = self.scored.copy()
        counted[:, -1] = False
        return counted

    @cached_property
    def labels(self) -> np.ndarray:
        """The next tokens of the predictions that count."""
        tokens = np.roll(self.certificate.tensors["contexts.tokens"], -1, axis=1)
        labels: np.ndarray = tokens[self.counted]
        return labels

    @cached_property
    def model(self) -> ModelRun:
        """The model itself, from the saved stream on."""
        entry = Rows.exact(self.certificate.tensors["contexts.stream"])
        own, stream = [], entry
        for at in range(self.certificate.shape.mlps):
            stream = self._attended(stream) if at else stream
            own.append(self._own(at, stream))
            before, stream = stream, stream.plus(own[at])
        logits = self._logits(stream)
        return ModelRun(entry, before, own, logits.certain, *logits.loss(self.labels))

    def bounds(self) -> Iterator[ContextBound]:
        """What holds of every statement's treatment."""
        last, model = self.certificate.shape.mlps - 1, self.model
        counts = sorted({statement.keep for statement in self.certificate.statements})
        kept = [dict(zip(counts, self._kept(at, counts), strict=True)) for at in range(last + 1)]
        for statement in self.certificate.statements:
            m, before = statement.keep, model.before
            if statement.mlps == 2:
                first = kept[0][m].where(self.scored, model.own[0])
                before = self._attended(model.entry.plus(first))
            changed = kept[last][m].where(self.scored, model.own[last])
            yield self._compared(statement, self._logits(before.plus(changed)))

    def _own(self, at: int, stream: Rows) -> Rows:
        return self.mlp(at)(self.norm(f"mlp{at}")(stream))

    def _attended(self, stream: Rows) -> Rows:
        return stream.plus(self.attention(self.norm("attention")(stream)))

    def _logits(self, stream: Rows) -> Logits:
        counted = Rows(stream.value[self.counted], stream.radius[self.counted])
        held = self.part("weights.final")
        read = self.norm("final")(counted)
        return Logits.of(read, held["unembedding"], held["unembedding_bias"])

    def _kept(self, at: int, counts: list[int]) -> list[Rows]:
        """The MLP's outputs [S, T, D] when every neuron reads its m largest latents, for each m.

        Zero where no position is scored.
        """
        mlp, dictionary = self.mlp(at), self.part(f"dictionary.mlp{at}")
        paths = [mlp.reads] if mlp.gate is None else [mlp.reads, mlp.gate]
        virtual = [dictionary["atoms"] @ path.W for path in paths]
        base = [dictionary["bias"] @ path.W + path.b for path in paths]
        code = self.part("contexts")
        widths = np.diff(code["offsets"])
        widest, rows = int(widths.max()), len(widths)
        out = [np.zeros((rows, len(b))) for _ in counts for b in base]
        step = max(1, CHUNK // (widest * len(base[0])))
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            index, value = self._entries(part, widest)
            p = [value[..., None] * G[index] for G in virtual]
            order = np.argsort(-sum(np.abs(each) for each in p), axis=1, kind="stable")
            sums = [np.cumsum(np.take_along_axis(each, order, axis=1), axis=1) for each in p]
            for at_count, m in enumerate(counts):
                for path, total in enumerate(sums):
                    if m:
                        out[at_count * len(p) + path][part] = total[:, min(m, widest) - 1]
        sizes = self._sizes(lengths(dictionary["atoms"]))
        errors = [self._error(path, sizes, length(dictionary["bias"]), widest) for path in paths]
        results = []
        for at_count in range(len(counts)):
            pre = [
                bounded(base[path] + out[at_count * len(paths) + path], errors[path])
                for path in range(len(paths))
            ]
            results.append(self._spread(mlp.output(pre[0], pre[1] if len(pre) > 1 else None)))
        return results

    def _entries(self, rows: slice, widest: int) -> tuple[np.ndarray, Array]:
        """Latents [B, K] of some scored positions and their activations, 0 where there is none."""
        code = self.part("contexts")
        start = code["offsets"][rows][:, None] + np.arange(widest)
        there = start < code["offsets"][rows.start + 1 : rows.stop + 1][:, None]
        start = np.minimum(start, len(code["values"]) - 1)
        return code["indices"][start], np.where(there, code["values"][start], 0.0)

    def _sizes(self, atoms: Array) -> Array:
        """Σ_h |a_h| ‖d_h‖ of every scored position, rounded up."""
        code = self.part("contexts")
        terms = np.abs(code["values"]) * atoms[code["indices"]]
        sums = np.concatenate([[0.0], np.cumsum(terms)])
        # A difference of running sums is off by the rounding of the longer one.
        sizes: Array = np.diff(sums[code["offsets"]]) + 2 * gamma(len(terms) + 4) * sums[-1]
        return sizes

    def _error(self, path: Linear, sizes: Array, bias: float, widest: int) -> Array:
        """How far sums of contributions and baselines may be off, in the norm over neurons."""
        own = (sizes + bias) * path.size + length(path.b)
        error: Array = gamma(len(path.W) + widest + 16) * own
        return error

    def _spread(self, rows: Rows) -> Rows:
        """Rows of scored positions, at their places [S, T]."""
        value = np.zeros((*self.scored.shape, rows.value.shape[1]))
        radius = np.zeros(self.scored.shape)
        value[self.scored], radius[self.scored] = rows.value, rows.radius
        return Rows(value, radius)

    def _compared(self, statement: ContextStatement, treated: Logits) -> ContextBound:
        best, loss, off = self.model.best, self.model.loss, self.model.loss_error
        other, more = treated.loss(self.labels)
        change = other - loss
        blur = off + more + 2 * UNIT * (np.abs(other) + np.abs(loss))
        count, same = len(self.labels), (best >= 0) & (treated.certain == best)
        each = (np.abs(change) + blur) * (1 + 4 * UNIT)
        mean = abs(math.fsum(change)) + math.fsum(blur)
        proved = bool(np.isfinite(each).all())
        return ContextBound(
            mlps=statement.mlps,
            keep=statement.keep,
            predictions=count,
            kept=int(same.sum()),
            claimed_kept=statement.kept,
            loss_change=mean / count * (1 + 8 * UNIT) if proved else math.inf,
            claimed_loss_change=statement.loss_change,
            token_change=math.fsum(each) / count * (1 + 8 * UNIT) if proved else math.inf,
            claimed_token_change=statement.token_change,
        )
