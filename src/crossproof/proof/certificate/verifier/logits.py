"""Logits with an interval each: which class is certainly the most likely, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import (
    TINY,
    UNIT,
    UP,
    Array,
    Indices,
    gamma,
)
from crossproof.proof.certificate.verifier.layers import Rows, lengths


@dataclass(frozen=True, eq=False)
class Logits:
    """Intervals around the true logits [..., V]."""

    value: Array
    error: Array

    @classmethod
    def of(cls, x: Rows, unembedding: Array, bias: Array) -> Logits:
        """x Uᵀ + b for U [V, D]."""
        value = x.value @ unembedding.T + bias
        lost = x.radius + gamma(unembedding.shape[1] + 8) * lengths(x.value)
        error = lost[..., None] * lengths(unembedding) + 4 * UNIT * (np.abs(value) + np.abs(bias))
        return cls(value, (error + TINY) * UP)

    @property
    def certain(self) -> Indices:
        """[...]: the class whose logit is certainly above all others; -1 where none is."""
        best = self.value.argmax(axis=-1)[..., None]
        margin = self.error + 2 * UNIT * (np.abs(self.value) + self.error)
        low = np.take_along_axis(self.value - margin, best, -1)
        others = self.value + margin
        np.put_along_axis(others, best, -np.inf, -1)
        sure = low > others.max(axis=-1, keepdims=True)
        certain: Indices = np.where(sure, best, -1)[..., 0]
        return certain

    def loss(self, labels: np.ndarray) -> tuple[Array, Array]:
        """The cross-entropy of labels [...], and a bound on how far it is from the true one."""
        top = self.value.max(axis=-1)
        total = np.exp(self.value - top[..., None]).sum(axis=-1)
        at = labels[..., None]
        chosen = np.take_along_axis(self.value, at, -1)[..., 0]
        own = np.take_along_axis(self.error, at, -1)[..., 0]
        value = top + np.log(total) - chosen
        size = 1 + np.abs(self.value).max(axis=-1)
        slack = gamma(self.value.shape[-1] + 64) * size * 4
        return value, (self.error.max(axis=-1) + own + slack) * UP
