"""Every constant and every sign matters: change one, and an inequality breaks.

Each check passes on the package as it is, and must fail on the mutant. `make mutants` tries many
more, unnamed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from bound_checks import (
    added,
    attending,
    bending,
    boxed,
    cancelling,
    centring,
    certified,
    crossing,
    falling,
    gated_pairs,
    inductive,
    kept,
    lowest,
    normed,
    projected,
    rounded,
    scoring,
    slackened,
    steepest,
    swinging,
    through_norm,
)
from mutating import Change, Constant, find_function, home

from crossproof.lm import Activation

LANDMARKS = {
    "constants": ("slope_range", "OSCILLATION"),
    "slack": ("product_slack", "preactivation_slack"),
    "paths": ("linear_path",),
    "functionals": ("gram_bound", "functional_bound"),
    "ladder": ("dominant_gap", "dominant_ladder"),
    "additive": ("additive_gap", "convex_range"),
    "gated": ("gated_gap", "gated_pair_interactions"),
    "attention": ("variation_of_range", "weight_interval"),
    "norms": ("margins_through_norm", "norm_lipschitz"),
    "margins": ("label_margins", "certified_margins"),
    "induction": ("block_step",),
    "centred": ("centred_gap",),
}
"""What the checks call a part of the theory, by something each of its modules defines: first the
one that ships, then the one that is only stated."""

MODULES = SimpleNamespace(
    **{
        part: SimpleNamespace(**{k: v for name in names for k, v in vars(home(name)).items()})
        for part, names in LANDMARKS.items()
    }
)

RELU, GELU, GELU_TANH = Activation.RELU, Activation.GELU, Activation.GELU_TANH
SILU, QUICK_GELU, IDENTITY = Activation.SILU, Activation.QUICK_GELU, Activation.IDENTITY

Check = Callable[[SimpleNamespace], None]
MUTANTS: dict[str, tuple[Change | Constant, Check]] = {
    # The constants of the activations.
    **{
        f"L {a.value} {value}": (Constant("LIPSCHITZ", a, value), steepest(a))
        for a, value in [
            (RELU, 0.999),
            (IDENTITY, 0.999),
            (GELU, 1.1289),
            (GELU_TANH, 1.12899),
            (SILU, 1.09983),
            (QUICK_GELU, 1.09983),
            (GELU, 1.0),
            (SILU, 1.0),
        ]
    },
    "swing is L": (Constant("OSCILLATION", GELU, 1.12890414518516), swinging(GELU)),
    "swing is one": (Constant("OSCILLATION", SILU, 1.0), swinging(SILU)),
    "swing of relu": (Constant("OSCILLATION", RELU, 0.9), swinging(RELU)),
    **{
        f"M {a.value}": (Constant("CURVATURE", a, value), bending(a))
        for a, value in [
            (GELU, 0.7978),
            (GELU_TANH, 0.7978),
            (SILU, 0.4999),
            (QUICK_GELU, 0.8509),
            (RELU, 1.0),
        ]
    },
    **{
        f"least {a.value}": (Constant("MINIMUM", a, value), lowest)
        for a, value in [
            (GELU, -0.16997),
            (GELU_TANH, -0.17004),
            (SILU, -0.27846),
            (QUICK_GELU, -0.16361),
        ]
    },
    **{
        f"x* {a.value}": (Constant("CRITICAL", a, value), steepest(a))
        for a, value in [
            (GELU, 1.5),
            (GELU_TANH, 1.5),
            (SILU, 2.5),
            (QUICK_GELU, 2.3993572805154677),
        ]
    },
    # Slopes on intervals.
    "top of slopes": (Change("slope_range", "torch.maximum(*X)", "torch.minimum(*X)"), kept),
    "bottom of slopes": (Change("slope_range", "torch.minimum(*X)", "torch.maximum(*X)"), added),
    "trough is one minus L": (
        Change("slope_range", "1 - LIPSCHITZ[X]", "0 * LIPSCHITZ[X]"),
        swinging(SILU),
    ),
    "trough is on the left": (Change("slope_range", "-peak", "peak"), falling),
    "slopes can be negative": (Change("lipschitz", "torch.maximum(X, -Y)", "X"), falling),
    "relu is off below its kink": (Change("slope_range", "high > 0", "low > 0"), kept),
    "relu has a kink": (Change("slope_range", "on & X", "on"), swinging(RELU)),
    # Paths.
    "drop the residual": (Change("Preactivations.error", "X.abs()", "0 * X"), kept),
    "signed residual": (Change("Preactivations.error", "X.abs()", "X"), kept),
    "drop the bias": (Change("Preactivations.kept", "self.baseline + X", "X"), kept),
    "signed rest": (
        Change("Preactivations.rest", "self.high - self.low", "self.high + self.low"),
        kept,
    ),
    "hull without the truth": (Change("dominant_ladder", "[path.true, X, Y]", "[X, Y]"), kept),
    "hull upside down": (Change("dominant_ladder", "points.amax(0)", "points.amin(0)"), kept),
    "interval upside down": (
        Change(
            "Preactivations.between",
            "self._widened(torch.minimum(X, Y), torch.maximum(X, Y))",
            "self._widened(X, Y)",
        ),
        kept,
    ),
    "slack narrows": (Change("Preactivations._widened", "(X - Y, Z + Y)", "(X, Z)"), slackened),
    "slack is not an error": (Change("Preactivations.error", "X + self.slack", "X"), slackened),
    "negative activations": (
        Change(
            "signed_sums",
            "sparse_product(down, positive)",
            "sparse_product(down, negative)",
        ),
        kept,
    ),
    # T1.
    "B3 without L": (Change("dominant_ladder", "slope * (moved @ X)", "moved @ X"), steepest(GELU)),
    "B4 without L": (
        Change("dominant_ladder", "X + slope * interaction", "X + interaction"),
        steepest(GELU),
    ),
    "R without L": (
        Change("dominant_ladder", "slope * (path.error @ X)", "path.error @ X"),
        steepest(SILU),
    ),
    "B4 without R": (Change("dominant_ladder", "residual + X", "X"), kept),
    "signed sum in B2": (
        Change("dominant_ladder", "path.signed_rest.abs()", "path.signed_rest"),
        kept,
    ),
    "rest without residual": (Change("dominant_ladder", "path.error + X", "X"), kept),
    "signed rest in gap": (
        Change("dominant_gap", "path.signed_rest.abs()", "path.signed_rest"),
        kept,
    ),
    "gap forgets rest": (Change("dominant_gap", "product_bound(X, Y)", "product_bound(X)"), kept),
    "gap forgets residual": (
        Change("dominant_gap", "product_bound(X, Y)", "product_bound(Y)"),
        kept,
    ),
    "slopes swapped in gap": (
        Change(
            "dominant_gap",
            "product_bound((first, X), (second, Y))",
            "product_bound((second, X), (first, Y))",
        ),
        kept,
    ),
    "residual gap without slope": (
        Change("residual_gap", "(slope, X)", "(0 * slope + 0.9, X)"),
        kept,
    ),
    # Functionals.
    "signed functional": (Change("functional_bound", "readout.abs()", "readout"), projected),
    "margin adds rows": (Change("margin_bound", "own - X", "own + X"), projected),
    "margin forgets a row": (Change("margin_bound", "own - X", "own"), projected),
    "signed Gram matrix": (Change("gram_bound", "(X @ W_out.T).abs()", "X @ W_out.T"), projected),
    "triangle of means": (Change("triangle_bound", "delta @ X", "delta @ X / 2"), projected),
    "spectral of maximum": (
        Change("spectral_bound", "delta.norm(dim=1)", "delta.amax(1)"),
        projected,
    ),
    # T2.2.
    "signed minimum": (
        Change("additive_bound", "ordered[:, 1:].abs()", "ordered[:, 1:]"),
        swinging(GELU),
    ),
    "signed partial sums": (
        Change("additive_bound", "X[:, :-1].abs()", "X[:, :-1]"),
        swinging(GELU),
    ),
    "partial sums too late": (
        Change("additive_bound", "X[:, :-1].abs()", "X[:, 1:].abs()"),
        cancelling,
    ),
    "hull of the total": (Change("hull_oscillation", "p.clamp_min(0)", "p"), cancelling),
    "hull without the bottom": (Change("hull_oscillation", "p.clamp_max(0)", "p"), cancelling),
    "pairs forget half": (
        Change("pairwise_minima", "torch.minimum(X, Y)", "0.5 * torch.minimum(X, Y)", "additive"),
        swinging(GELU),
    ),
    "curvature forgets pairs": (
        Change("additive_bounds", "size.cumsum(1)", "0.5 * size.cumsum(1)"),
        bending(GELU),
    ),
    "additive gap without residual": (
        Change("additive_gap", "residual_gap(X, Y) + Z", "Z"),
        added,
    ),
    "additive gap without interaction": (
        Change("additive_gap", "residual_gap(X, Y) + Z", "residual_gap(X, Y)"),
        added,
    ),
    "box corners swapped": (
        Change(
            "convex_range",
            "(X + cross_high, Y + cross_low)",
            "(X + cross_low, Y + cross_high)",
        ),
        boxed,
    ),
    "box without the crossing": (
        Change("convex_range", "(X + cross_high, Y + cross_low)", "(X, Y)"),
        boxed,
    ),
    # T3.
    "gated without the gate": (
        Change("gated_terms", "slope * value * gate", "0 * gate", "gated"),
        crossing,
    ),
    "gated without L": (
        Change("gated_terms", "slope * value * gate", "0.95 * value * gate", "gated"),
        crossing,
    ),
    "gated without the value": (
        Change("gated_terms", "opening * linear", "0 * linear", "gated"),
        crossing,
    ),
    "gated without the product": (
        Change("gated_terms", "slope * gate * linear", "0 * linear", "gated"),
        crossing,
    ),
    "signed value": (Change("_moved", "at_linear.abs()", "at_linear", "gated"), crossing),
    "signed gate": (
        Change("_moved", "activation(at_gate).abs()", "activation(at_gate)", "gated"),
        crossing,
    ),
    "same end twice": (
        Change("gated_gap", "torch.minimum(X, Y)", "moved.gate + moved.linear"),
        crossing,
    ),
    "gated gap without residual": (Change("gated_gap", "sharp + X", "sharp"), crossing),
    "gated additive without the gate": (
        Change("gated_additive_bound", "X * gate", "0 * gate"),
        gated_pairs,
    ),
    "gated additive without the crossing": (
        Change("gated_additive_bound", "slope * X", "0 * slope * X"),
        gated_pairs,
    ),
    "gated additive with itself": (
        Change("gated_additive_bound", "X - p_gate", "0.3 * p_gate"),
        gated_pairs,
    ),
    "gated pairs cross once": (
        Change("gated_pair_interactions", "crossed + X", "crossed"),
        gated_pairs,
    ),
    "gated pairs without the gate": (
        Change("gated_pair_interactions", "pairwise_minima(X, Y) + Z", "Z"),
        gated_pairs,
    ),
    # Attention.
    "softmax constant": (Change("variation_of_range", "width / 4", "width / 4.01"), attending),
    "range of an error": (Change("variation_of_error", "2 * tau", "1.99 * tau"), attending),
    "others stay": (
        Change("weight_interval", "up + rest_down.clamp_min(0)", "up + rest_up"),
        attending,
    ),
    "others fall": (Change("weight_interval", "down + rest_up", "down + rest_down"), attending),
    "sum for range": (Change("functional_value_error", "X - Y", "X + Y"), attending),
    "norm for range": (
        Change("functional_value_error", "X - Y", "values.abs().amax(-1)"),
        attending,
    ),
    "worst first": (
        Change("extremal_average", "X.argsort(dim=-1, descending=True)", "X.argsort(dim=-1)"),
        attending,
    ),
    "kept for dropped": (
        Change("score_error", "torch.where(X, 0, Y)", "torch.where(X, Y, 0)"),
        scoring,
    ),
    "signed scores": (Change("score_error", "scores.abs()", "scores"), scoring),
    "scores without scale": (Change("bilinear_scores", "scale * X", "X"), scoring),
    **{
        f"residual term {number}": (Change("score_residual", term, f"0 * {term}"), scoring)
        for number, term in enumerate(
            ["size(x_error, y)", "size(x, y_error)", "size(x_error, y_error)"]
        )
    },
    # T4.
    "error adds to margins": (Change("certified_margins", "X - Y", "X + Y"), certified),
    "margins forget the error": (Change("certified_margins", "X - Y", "X"), certified),
    "margins reversed": (Change("label_margins", "X - logits", "logits - X"), certified),
    "loss rises with margins": (Change("cross_entropy_bound", "-mu", "mu"), certified),
    "loss forgets the label": (
        Change("cross_entropy_bound", "X.scatter(1, Y, 0.0)", "X.scatter(1, Y, -math.inf)"),
        certified,
    ),
    "a tie is correct": (Change("certified_correct", "others > 0", "others >= 0"), certified),
    "one margin suffices": (Change("certified_correct", "X.all(1)", "X.any(1)"), certified),
    "margins through the norm forget the error": (
        Change("certified_margins_through_norm", "least - X", "least - 0 * X"),
        through_norm,
    ),
    "margins through the norm without bias": (
        Change("certified_margins_through_norm", "X - offsets", "0 * (X - offsets)"),
        through_norm,
    ),
    "no ball around the norm": (
        Change("certified_margins_through_norm", "gram_bound(X, Y)", "0 * gram_bound(X, Y)"),
        through_norm,
    ),
    "worse end of the norm": (
        Change("margins_through_norm", "torch.where(X, Y, Z)", "torch.where(X, Z, Y)"),
        normed,
    ),
    "worse end of the shift": (
        Change("correct_through_norm", "torch.minimum(X, Y)", "torch.maximum(X, Y)"),
        normed,
    ),
    "scale does not fall": (
        Change("Norm.scale_range", "length - radius - X", "length - X"),
        normed,
    ),
    "scale does not rise": (
        Change("Norm.scale_range", "length + radius + X", "length + X"),
        normed,
    ),
    "ball holds the origin": (Change("Norm.scale_range", "X.clamp_min(0)", "X"), normed),
    "slope at the far end": (
        Change("norm_lipschitz", "X / low", "X / norm.scale_range(r, radius)[1]"),
        normed,
    ),
    "slope without width": (Change("norm_lipschitz", "math.sqrt(norm.width)", "1"), normed),
    # Induction.
    "step forgets the ball": (Change("block_step", "X * radius + Y", "Y"), inductive),
    "step forgets the interaction": (Change("block_step", "X + interaction", "X"), inductive),
    "step forgets the defect": (Change("block_step", "X + defect", "X"), inductive),
    "slope at the centre": (
        Change("mlp_lipschitz", "slope_range(X, z - reach, z + reach)", "slope_range(X, z, z)"),
        inductive,
    ),
    "slope in the middle": (
        Change("mlp_lipschitz", "spectral_norm(jacobian) + X", "spectral_norm(jacobian)"),
        inductive,
    ),
    "block without its skip": (Change("block_lipschitz", "1 + X", "X"), inductive),
    "defect without constants": (Change("separable_defect", "X + constant.norm()", "X"), inductive),
    "defect without latents": (
        Change("separable_defect", "X + constant.norm()", "0 * X + constant.norm()"),
        inductive,
    ),
    # Rounding.
    "rounding of long sums": (Change("gamma", "X / (1 - X)", "roundoff"), rounded),
    "signed magnitudes": (
        Change("product_slack", "left.abs() @ right.abs()", "left @ right"),
        rounded,
    ),
    "slack forgets the offset": (Change("product_slack", "X + offset.abs()", "0 * X"), rounded),
    "slack forgets L": (Change("activation_slack", "LIPSCHITZ[X] * error", "error"), rounded),
    # T1c.
    "centred half from above alone": (
        Change("centred_slope", "torch.maximum(X, Y)", "0.98 * X"),
        centring,
    ),
    "centred gap without its half": (Change("centred_gap", "half * X.abs()", "0 * X"), centring),
    "centred gap signed": (Change("centred_gap", "half * X.abs()", "half * X"), centring),
    "centred step of the wrong sign": (
        Change("centred_gap", "slope * moved", "-slope * moved"),
        centring,
    ),
    "centred without the slope's slack": (
        Change("centred_gap", "half + slope.abs()", "half"),
        centring,
    ),
    "centred without slack": (Change("centred_gap", "X * path.slack", "0 * X"), centring),
}

PASSED: set[Check] = set()
"""Checks that the package as it is has passed."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_an_inequality(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, check = MUTANTS[name]
    if check not in PASSED:
        check(MODULES)
        PASSED.add(check)
    change.apply(monkeypatch)
    with pytest.raises(AssertionError):
        check(MODULES)


# --- the tool itself ------------------------------------------------------------------------------


def test_a_mutant_leaves_with_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    function = find_function("residual_gap")
    code = function.__code__
    with monkeypatch.context() as inner:
        Change("residual_gap", "(slope, X)", "(0 * slope, X)").apply(inner)
        assert function.__code__ is not code
    assert function.__code__ is code


def test_a_pattern_that_nothing_looks_like_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=r"nothing in residual_gap looks like X / Y"):
        Change("residual_gap", "X / Y", "X").apply(monkeypatch)


def test_a_letter_stands_for_the_same_expression_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="nothing in residual_gap looks like X"):
        Change("residual_gap", "X * X", "X").apply(monkeypatch)
