"""The additive bound over boxes (THEORY T2.2, T2.3, T5): latents one by one, the rest charged.

In each active set, latents are affine functions of the true activations (the certificate says
which; any are sound). They act through univariate curves with exact minima. What the curves leave
out is enclosed neuron by neuron: the non-additive part, between its exact values at two corners if
two latents are at work and neither is negative, and what the dictionary does not reconstruct.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import Array, Rounded
from crossproof.proof.certificate.verifier.checks import NetworkWeights
from crossproof.proof.certificate.verifier.curves import Curves, Latents
from crossproof.proof.certificate.verifier.enclosures import Boxes, Enclosures


class Additive:
    """Margins through a dictionary's latents."""

    def __init__(
        self, enclosures: Enclosures, weights: NetworkWeights, latents: Latents, whole: Boxes
    ) -> None:
        """`whole` [G] are the domain's own boxes, one a set."""
        self.enclosures, self.latents = enclosures, latents
        self.arithmetic = count = enclosures.arithmetic
        self.ends = self._ends(whole)
        self.curves = Curves(count, weights, latents, self.ends)
        self.residual = self._unexplained(whole, enclosures.G, enclosures.base, self.curves.G)
        self.skip_residual = self._unexplained(
            whole, enclosures.skip, enclosures.constant, self.curves.skip
        )

    def _ends(self, whole: Boxes) -> tuple[Array, Array]:
        """The smallest and largest activations of each latent anywhere, [H] each, and 0."""
        low, high = self.activations(whole)
        smallest, largest = np.zeros(len(self.latents.decoder)), np.zeros(len(self.latents.decoder))
        index = self.latents.index
        np.minimum.at(smallest, index, low)
        np.maximum.at(largest, index, high)
        return smallest, largest

    def _unexplained(
        self, whole: Boxes, truth: Rounded, start: Rounded, ours: Rounded
    ) -> tuple[Rounded, Rounded]:
        """⟨·, x - x̂⟩ as offset [G, n] and slopes [G, K, n] in the true activations.

        The offset leaves out what biases do: it is added by the caller's `start`.
        """
        count, latents = self.arithmetic, self.latents
        decoder = ours[latents.index]  # [G, M, n]
        offset = count.total(count.times(decoder, count.exact(latents.offset[..., None])), axis=1)
        offset = count.subtract(start, offset)
        explained = [
            count.total(count.times(decoder, count.exact(latents.slopes[:, j, :, None])), axis=1)
            for j in range(latents.slopes.shape[1])
        ]
        slopes = [
            count.subtract(truth[whole.active[:, j]], part) for j, part in enumerate(explained)
        ]
        size = np.max([part.size for part in slopes], axis=0)
        error = np.max([part.error for part in slopes], axis=0)
        return offset, Rounded(np.stack([part.value for part in slopes], axis=1), size, error)

    def activations(self, boxes: Boxes) -> tuple[Array, Array]:
        """The smallest and largest activations of the latents over each box, [B, M], outward."""
        count, slopes = self.arithmetic, self.latents.slopes[boxes.sets]
        exact = count.exact(slopes)
        ends = self.enclosures.scaled(exact, boxes.low), self.enclosures.scaled(exact, boxes.high)
        offset = count.exact(self.latents.offset[boxes.sets])
        low = count.add(count.total(count.minimum(*ends), axis=1), offset)
        high = count.add(count.total(count.maximum(*ends), axis=1), offset)
        return low.low, high.high

    def margins(self, boxes: Boxes) -> Rounded:
        """Lower bounds [B, V] on the margins over each box."""
        count, curves, label = self.arithmetic, self.curves, boxes.label
        index = self.latents.index[boxes.sets]
        smallest, largest = (end[index] for end in self.ends)  # beyond them no kink is looked for
        low, high = (np.clip(end, smallest, largest) for end in self.activations(boxes))
        rows = self.enclosures.against(curves.W_out, label)
        resting = count.add(curves.constant, count.product(curves.resting, curves.W_out))
        margins = curves.smallest(index, low, high, label)
        margins = count.add(margins, self.enclosures.against(resting, label))
        margins = count.subtract(margins, curves.missed(index, count.absolute(rows)))
        margins = count.add(margins, self._skip_error(boxes))
        error = self._neuron_error(boxes, index, low, high)
        return count.add(margins, self.enclosures.output(boxes, *error))

    def _skip_error(self, boxes: Boxes) -> Rounded:
        """The least that x - x̂ does to the margins through the linear path."""
        count, (offset, slopes) = self.arithmetic, self.skip_residual
        constant = count.subtract(offset[boxes.sets], self.curves.constant)
        against = self.enclosures.against
        spread = self.enclosures.smallest(against(slopes[boxes.sets], boxes.label), boxes)
        return count.add(spread, against(constant, boxes.label))

    def _neuron_error(
        self, boxes: Boxes, index: np.ndarray, low: Array, high: Array
    ) -> tuple[Rounded, Rounded]:
        """Between what a neuron's output differs from the additive one over each box, [B, N]."""
        count, scaled = self.arithmetic, self.enclosures.scaled
        decoder = self.curves.G[index]
        at_low, at_high = scaled(decoder, low), scaled(decoder, high)
        least, most = count.minimum(at_low, at_high), count.maximum(at_low, at_high)
        bottom = count.add(count.total(count.below(least), axis=1), self.curves.base)
        top = count.add(count.total(count.relu(most), axis=1), self.curves.base)
        down, up = self._interaction(at_low, at_high, bottom, top, low.min(axis=1) >= 0)
        smallest, largest = self._residual(boxes)
        dead = (top.high <= 0) & (self.enclosures.pre_activations(boxes)[1].high <= 0)
        smallest, largest = smallest.zero_where(dead), largest.zero_where(dead)
        return count.add(down, count.below(smallest)), count.add(up, count.relu(largest))

    def _residual(self, boxes: Boxes) -> tuple[Rounded, Rounded]:
        """The least and the most that x - x̂ adds to a pre-activation."""
        count, (offset, slopes) = self.arithmetic, self.residual
        here = slopes[boxes.sets]
        ends = self.enclosures.scaled(here, boxes.low), self.enclosures.scaled(here, boxes.high)
        constant = count.subtract(offset[boxes.sets], self.curves.base)
        low = count.add(count.total(count.minimum(*ends), axis=1), constant)
        return low, count.add(count.total(count.maximum(*ends), axis=1), constant)

    def _interaction(
        self, at_low: Rounded, at_high: Rounded, bottom: Rounded, top: Rounded, positive: np.ndarray
    ) -> tuple[Rounded, Rounded]:
        """Enclosure of E_n: T2.2 with the hull's oscillation, or T2.3's two corners."""
        count = self.arithmetic
        size = count.maximum(count.absolute(at_low), count.absolute(at_high))
        largest = reduce(count.maximum, [size[:, m] for m in range(size.value.shape[1])])
        charge = count.relu(count.subtract(count.total(size, axis=1), largest))
        charge = charge.zero_where((bottom.low >= 0) | (top.high <= 0))  # affine on the hull
        down, up = Rounded(-charge.value, *charge.bounds), charge
        if size.value.shape[1] != 2:
            return down, up
        corners = [self._second_difference(at[:, 0], at[:, 1]) for at in (at_low, at_high)]
        least, most = count.minimum(*corners), count.maximum(*corners)
        return _choose(positive, least, down), _choose(positive, most, up)

    def _second_difference(self, first: Rounded, second: Rounded) -> Rounded:
        count, base = self.arithmetic, self.curves.base
        together = count.relu(count.add(count.add(first, second), base))
        alone = count.subtract(together, count.relu(count.add(first, base)))
        alone = count.subtract(alone, count.relu(count.add(second, base)))
        return count.add(alone, self.curves.resting)


def _choose(rows: np.ndarray, yes: Rounded, no: Rounded) -> Rounded:
    size, error = np.maximum(yes.size, no.size), np.maximum(yes.error, no.error)
    return Rounded(np.where(rows[:, None], yes.value, no.value), size, error)
