"""Lower bounds on the margins of a network over boxes of true activations, without a dictionary.

`interval` encloses pre-activations neuron by neuron; `linear` puts every neuron between two affine
functions of the activations and minimises their sum exactly. Each is sound alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import (
    TINY,
    UP,
    Arithmetic,
    Array,
    Indices,
    Rounded,
)
from crossproof.proof.certificate.verifier.checks import NetworkWeights


@dataclass(frozen=True, eq=False)
class Boxes:
    """B boxes of one label: which features are active, and between what."""

    sets: Indices
    """[B]: the row of `active_sets`."""
    active: Indices
    """[B, K]: the features."""
    low: Array
    high: Array
    """[B, K]."""
    label: int


class Enclosures:
    """The network as seen from the features, with the tables that all boxes share."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        weights: NetworkWeights,
        decoder: Array,
        bias: Array,
    ) -> None:
        self.arithmetic = arithmetic
        W_in, skip = arithmetic.exact(weights.W_in), arithmetic.exact(weights.skip)
        self.W_out = arithmetic.exact(weights.W_out)
        features, origin = arithmetic.exact(decoder), arithmetic.exact(bias)
        b_in, b_out = arithmetic.exact(weights.b_in), arithmetic.exact(weights.b_out)
        self.G = arithmetic.product(features, W_in)
        self.base = arithmetic.add(arithmetic.product(origin, W_in), b_in)
        self.skip = arithmetic.product(features, skip)
        self.constant = arithmetic.add(arithmetic.product(origin, skip), b_out)

    def interval(self, boxes: Boxes) -> Rounded:
        """Plain interval arithmetic, the linear path exact."""
        count, (low, high) = self.arithmetic, self.pre_activations(boxes)
        start = self._linear_path(boxes)
        return count.add(start, self.output(boxes, count.relu(low), count.relu(high)))

    def pre_activations(self, boxes: Boxes) -> tuple[Rounded, Rounded]:
        """The smallest and the largest pre-activation of each neuron over each box, [B, N]."""
        count, g = self.arithmetic, self.G[boxes.active]
        at_low, at_high = self.scaled(g, boxes.low), self.scaled(g, boxes.high)
        low = count.total(count.minimum(at_low, at_high), axis=1)
        high = count.total(count.maximum(at_low, at_high), axis=1)
        return count.add(low, self.base), count.add(high, self.base)

    def scaled(self, directions: Rounded, by: Array) -> Rounded:
        """directions [B, K, n] times numbers [B, K]."""
        return self.arithmetic.times(directions, self.arithmetic.exact(by[..., None]))

    def smallest(self, slopes: Rounded, boxes: Boxes) -> Rounded:
        """min over the box of Σ_j a_j slopes[:, j], exactly."""
        count = self.arithmetic
        ends = self.scaled(slopes, boxes.low), self.scaled(slopes, boxes.high)
        return count.total(count.minimum(*ends), axis=1)

    def against(self, values: Rounded, label: int) -> Rounded:
        """value of the label minus value of every class, along the last axis."""
        return self.arithmetic.subtract(values.columns(slice(label, label + 1)), values)

    def _linear_path(self, boxes: Boxes) -> Rounded:
        """The skip path's margins at their smallest over each box, constants included."""
        slopes = self.against(self.skip, boxes.label)[boxes.active]
        constant = self.against(self.constant, boxes.label)
        return self.arithmetic.add(self.smallest(slopes, boxes), constant)

    def output(self, boxes: Boxes, low: Rounded, high: Rounded) -> Rounded:
        """min of Σ_n (o_ny - o_nc) h_n over h_n between `low` and `high` [B, N]."""
        count, rows = self.arithmetic, self.against(self.W_out, boxes.label)
        helping = count.product(low, count.relu(rows))
        return count.add(helping, count.product(high, count.below(rows)))

    def linear(self, boxes: Boxes) -> Rounded:
        """Affine functions below and above every neuron, minimised together (as CROWN does)."""
        count = self.arithmetic
        under, over, lift = self._relaxation(*self.pre_activations(boxes))
        rows = self.against(self.W_out, boxes.label)
        helping, hurting = count.relu(rows), count.below(rows)
        above = count.add(count.times(self.base, over), lift)
        constant = count.product(count.times(self.base, under), helping)
        constant = count.add(constant, count.product(above, hurting))
        constant = count.add(constant, self.against(self.constant, boxes.label))
        g = self.G[boxes.active]
        slopes = count.product(count.times(g, under[:, None]), helping)
        slopes = count.add(slopes, count.product(count.times(g, over[:, None]), hurting))
        slopes = count.add(slopes, self.against(self.skip, boxes.label)[boxes.active])
        return count.add(self.smallest(slopes, boxes), constant)

    def _relaxation(self, low: Rounded, high: Rounded) -> tuple[Rounded, Rounded, Rounded]:
        """Slopes below and above relu and the offset above, [B, N]: plain numbers, all sound.

        λz <= relu(z) for any λ in [0, 1]; above is the chord from (lowest, 0) to (highest,
        highest), lifted until both ends are covered whatever rounding did to its slope.
        """
        lowest, highest = np.minimum(low.low, 0.0), np.maximum(high.high, 0.0)
        over = highest / (highest - lowest)  # 0 lies between, and they are never both 0
        lift = np.maximum(-over * lowest, (1 - over) * highest) * UP + TINY
        under = np.where(highest >= -lowest, 1.0, 0.0)
        count = self.arithmetic
        count.operations += 8 * under.size
        return count.exact(under), count.exact(over), count.exact(lift)
