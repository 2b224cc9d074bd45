"""The review's ablation: is a penalty's gain due to interaction, or would any pressure do?

Two objectives, the paper's penalty and the exact error, stand beside controls of equal magnitude,
by two measures of magnitude: the norm of the gradient at the decoder of an unpenalised
crosscoder, on a training batch; and the cost in FVU, on validation text. All choices (strengths,
places along curves) are made on training and validation text; figures are of held-out text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from crossproof.activations import Harvest
from crossproof.evaluation import EvaluationOptions
from crossproof.training import Objective, RunConfig
from paper.figures.ablation_words import charts as charts
from paper.figures.ablation_words import words as words
from paper.measuring.curves import CurvePoint, point_at, point_at_strength
from paper.measuring.experiment import SHORT, Experiment
from paper.measuring.gradients import gradient_norms, mlps_by_hookpoint
from paper.measuring.measurements import SeedMeasurements
from paper.measuring.objectives import EXACT, MIXED
from paper.measuring.settings import FigureSettings
from paper.measuring.sweep import FAMILIES, NONE, OPTIONS, label

TITLE = "The review's ablation: is the gain due to interaction?"

CONTROLS = ("rotated", "l1", "mlp_in")
INTERACTION = "interaction"
STRENGTH = 100.0
"""Of the exact error and the mixture, and the middle of the controls' curves: a control's strength
there pulls at the decoder as hard as `interaction` at this one."""
FACTORS = (0.1, 0.3, 1.0, 10.0)
LAMBDAS = (1.0, 10.0, 30.0, 100.0, 1000.0, 10000.0)
"""Of the interaction penalty: figure 1's, and one more where its gain is largest."""
KEEP, EVERY = "phi/keep-largest/exact_mid", "phi/none/exact_mid"
FIGURES = (KEEP, EVERY, "fvu", "fvu_mlp_in", "interaction", "additive_interaction")
CHEAP = EvaluationOptions(patch_hookpoints=False, schemes=())
"""FVU, I and J: enough to find places on curves."""


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Gains at equal magnitude, with paired intervals, and a verdict computed from them."""
    ablation = ReviewAblation(Experiment.open(settings))
    ablation.experiment.crosscoders(ablation.variants)  # all at once: they share their batches
    return ablation.numbers()


@dataclass(frozen=True, eq=False)
class ReviewAblation:
    """All that the ablation compares."""

    experiment: Experiment

    @cached_property
    def gradients(self) -> dict[str, float]:
        """Norms of the penalties' gradients at the first seed's unpenalised decoder.

        Of `interaction` and the controls at strength 1, of the exact error at its own. One seed,
        so that a further seed of the ablation leaves the strengths as they are.
        """
        experiment, seed = self.experiment, self.experiment.settings.seeds[0]
        config = experiment.config()
        hookpoints = experiment.model.hookpoints()
        mlps = mlps_by_hookpoint(experiment.model, hookpoints)
        units = (INTERACTION, *CONTROLS)
        objectives = {term: at_strength(term, 1.0) for term in units}
        objectives[EXACT] = Objective(**FAMILIES[EXACT].terms(STRENGTH))
        harvest = Harvest(
            experiment.model, experiment.text("train"), hookpoints, config.batch_tokens, seed=seed
        )
        unpenalised = experiment.crosscoders({NONE: config})[NONE][0]
        return gradient_norms(unpenalised, harvest.batch(0), mlps, objectives, seed)

    @cached_property
    def curves(self) -> dict[str, dict[str, RunConfig]]:
        """Each objective's configurations by label, in the order of pressure."""
        experiment = self.experiment
        found = {
            INTERACTION: {
                label(INTERACTION, s): experiment.config(interaction=s) for s in self.lambdas
            }
        }
        for control in CONTROLS:
            found[control] = {
                label(control, s): experiment.config(**{control: s})
                for s in self.strengths(control)
            }
        k = experiment.settings.size.k
        base = experiment.config()
        found["smaller k"] = {
            f"k = {value}": replace(base, crosscoder=replace(base.crosscoder, k=value))
            for value in (3 * k // 4, k // 2, k // 4)
        }
        return found

    @property
    def lambdas(self) -> tuple[float, ...]:
        """Strengths of the interaction penalty at the settings' size."""
        return (LAMBDAS[0], STRENGTH) if self.experiment.settings.quick else LAMBDAS

    def strengths(self, control: str) -> list[float]:
        """Around the strength whose gradient equals that of `interaction`; two digits."""
        equal = STRENGTH * self.gradients[INTERACTION] / self.gradients[control]
        factors = FACTORS[-2:] if self.experiment.settings.quick else FACTORS
        return [float(f"{equal * factor:.1e}") for factor in factors]

    @cached_property
    def variants(self) -> dict[str, RunConfig]:
        """Every configuration by label."""
        found = {NONE: self.experiment.config()}
        for family in (EXACT, MIXED):
            found[label(family, STRENGTH)] = self.experiment.config(
                **FAMILIES[family].terms(STRENGTH)
            )
        for curve in self.curves.values():
            found |= curve
        return found

    @cached_property
    def held_out(self) -> dict[str, SeedMeasurements]:
        """Measured on held-out text, for reporting; what figure 1 has too, as it measures it."""
        curves = (curve for name, curve in self.curves.items() if name != INTERACTION)
        controls = {name: config for curve in curves for name, config in curve.items()}
        shared = {name: config for name, config in self.variants.items() if name not in controls}
        runs = self.experiment.measure(shared, options=OPTIONS)
        return runs | self.experiment.measure(controls, options=SHORT)

    @cached_property
    def validation(self) -> dict[str, SeedMeasurements]:
        """Measured on validation text, for choices."""
        return self.experiment.measure(self.variants, "validation", CHEAP)

    @cached_property
    def references(self) -> dict[str, str]:
        """The objectives in question, each at one strength: `interaction` at its best Φ."""
        curve = self.curves[INTERACTION]
        runs = self.experiment.measure(curve, "validation", SHORT)
        best = max(curve, key=lambda name: runs[name].figure(KEEP).value)
        return {INTERACTION: best, EXACT: label(EXACT, STRENGTH)}

    def chosen(self, figure: str) -> dict[str, dict[str, float]]:
        """A figure on validation text along every curve, from no penalty on."""
        return {
            name: {n: self.validation[n].figure(figure).value for n in (NONE, *curve)}
            for name, curve in self.curves.items()
        }

    def matched(self, reference: str) -> dict[str, dict[str, CurvePoint]]:
        """By measure of magnitude and control: the place that equals the reference."""
        name = self.references[reference]
        curves = {c: curve for c, curve in self.curves.items() if c != reference}
        target = self.validation[name].figure("fvu").value
        fvu = self.chosen("fvu")
        cost = {c: point_at(fvu[c], target) for c in curves}
        gradient = {}
        for control, curve in curves.items():
            if control in self.gradients:
                strengths = [
                    config.objective.strengths().get(control, 0.0) for config in curve.values()
                ]
                equal = self.pull(reference) / self.gradients[control]
                gradient[control] = point_at_strength(list(curve), strengths, equal)
        return {"gradient": gradient, "fvu": cost}

    def pull(self, reference: str) -> float:
        """Norm of the gradient of a reference's penalties."""
        if reference == INTERACTION:
            strength = self.variants[self.references[reference]].objective.strengths()[INTERACTION]
            return strength * self.gradients[INTERACTION]
        return self.gradients[reference]

    def numbers(self) -> dict[str, Any]:
        """Everything the words say."""
        base = CurvePoint(NONE, NONE, 0.0)
        mixed = CurvePoint(label(MIXED, STRENGTH), label(MIXED, STRENGTH), 0.0)
        comparisons = {}
        for reference, name in self.references.items():
            own = CurvePoint(name, name, 0.0)
            matched = self.matched(reference)
            comparisons[reference] = {
                "reference": self._entry(own, base, own),
                **{
                    measure: {c: self._entry(place, base, own) for c, place in places.items()}
                    for measure, places in matched.items()
                },
            }
        return {
            "setup": self.experiment.setup(),
            "gradient_norms": self.gradients,
            "strengths": {c: self.strengths(c) for c in CONTROLS},
            "none": self._entry(base, base, base),
            "mixed": self._entry(mixed, base, base),
            "comparisons": comparisons,
            "parts": {
                label(family, STRENGTH): self.parts(label(family, STRENGTH))
                for family in (EXACT, MIXED)
            },
            "curves": {
                name: [self._entry(CurvePoint(n, n, 0.0), base, base) for n in (NONE, *curve)]
                for name, curve in self.curves.items()
            },
        }

    def parts(self, name: str) -> dict[str, Any]:
        """How much of a gain comes with fewer interactions, by I and by J.

        The part that does is what the paper's penalty gains where it brings I (or J) down as far;
        nothing if the objective does not bring it down. The rest comes without.
        """
        own, base = CurvePoint(name, name, 0.0), CurvePoint(NONE, NONE, 0.0)
        gain = own.figure(self.held_out, KEEP) - base.figure(self.held_out, KEEP)
        found: dict[str, Any] = {"gain": gain.estimate()}
        for symbol, figure in (("I", "interaction"), ("J", "additive_interaction")):
            along = self.chosen(figure)[INTERACTION]
            value = self.validation[name].figure(figure).value
            falls = value < along[NONE]
            place = point_at(along, value) if falls else base
            through = place.figure(self.held_out, KEEP) - base.figure(self.held_out, KEEP)
            found[symbol] = {
                "falls": falls,
                "change": _ratio(self.held_out, own, base, figure),
                "place": place.describe(),
                "with_fewer": through.estimate(),
                "without": (gain - through).estimate(),
            }
        return found

    def _entry(self, place: CurvePoint, base: CurvePoint, reference: CurvePoint) -> dict[str, Any]:
        runs = self.held_out
        keep = place.figure(runs, KEEP)
        return {
            "place": place.describe(),
            "reached": place.reached,
            "figures": {name: place.figure(runs, name).estimate() for name in FIGURES},
            "gain": (keep - base.figure(runs, KEEP)).estimate(),
            "behind_reference": (reference.figure(runs, KEEP) - keep).estimate(),
            "fvu_ratio": _ratio(runs, place, base, "fvu"),
            "interaction_ratio": _ratio(runs, place, base, "interaction"),
            "additive_ratio": _ratio(runs, place, base, "additive_interaction"),
        }


def at_strength(term: str, strength: float) -> Objective:
    """The objective with one term."""
    settings: dict[str, Any] = {term: strength}
    return Objective(**settings)


def _ratio(
    runs: Mapping[str, SeedMeasurements], place: CurvePoint, base: CurvePoint, figure: str
) -> dict[str, Any]:
    return (place.figure(runs, figure) / base.figure(runs, figure)).estimate()
