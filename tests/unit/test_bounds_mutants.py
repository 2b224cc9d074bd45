"""Every constant and every sign matters: change one in the source, and an inequality breaks.

A mutant is the package's own source with one piece of text replaced (which must occur exactly
once), imported beside the original. Its check passes on the original and must fail on it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType, SimpleNamespace

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

import crossproof
from crossproof.lm import Activation

PACKAGE = "crossproof.proof"
MODULES = (
    *("constants", "slack", "paths", "blocks", "functionals", "ladder", "additive", "gated"),
    *("attention", "norms", "margins", "induction", "centred"),
)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with one piece of its text replaced."""

    def __init__(self, fullname: str, path: str, old: str, new: str) -> None:
        super().__init__(fullname, path)
        self.old, self.new = old, new

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        assert source.count(self.old) == 1, f"{self.old!r} occurs {source.count(self.old)} times"
        return compile(source.replace(self.old, self.new), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, old: str, new: str) -> None:
        self.target, self.old, self.new = f"{PACKAGE}.{module}", old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(PACKAGE):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and fullname == self.target:
            assert spec.origin is not None
            loader = _Loader(fullname, spec.origin, self.old, self.new)
            spec = importlib.util.spec_from_file_location(fullname, spec.origin, loader=loader)
        return spec


def load(module: str = "", old: str = "", new: str = "") -> SimpleNamespace:
    """Fresh copies of the bounds' modules, one of them changed; the loaded ones stay in place."""
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(PACKAGE)}
    package = crossproof.__dict__.get("proof")
    finder = _Finder(module, old, new)
    sys.meta_path.insert(0, finder)
    try:
        loaded = {name: importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES}
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(saved)
        if package is not None:
            crossproof.proof = package  # type: ignore[attr-defined]
    return SimpleNamespace(**loaded)


# --- the mutants --------------------------------------------------------------------------------

Mutant = tuple[str, str, str, Callable[[SimpleNamespace], None]]
RELU, IDENTITY = "Activation.RELU", "Activation.IDENTITY"

MUTANTS: dict[str, Mutant] = {
    "L relu": (
        "constants",
        f"    {RELU}: 1.0,\n    Activation.GELU: 1.128",
        f"    {RELU}: 0.999,\n    Activation.GELU: 1.128",
        steepest(Activation.RELU),
    ),
    "L identity": (
        "constants",
        f"{IDENTITY}: 1.0",
        f"{IDENTITY}: 0.999",
        steepest(Activation.IDENTITY),
    ),
    **{
        f"L {a.value}": ("constants", f"{a}: {old}", f"{a}: {new}", steepest(a))
        for a, old, new in [
            (Activation.GELU, "1.12890414518516", "1.1289"),
            (Activation.GELU_TANH, "1.12899306865878", "1.12899"),
            (Activation.SILU, "1.09983932012887", "1.09983"),
            (Activation.QUICK_GELU, "1.09983932012887", "1.09983"),
        ]
    },
    **{
        f"L {a.value} is one": ("constants", f"{a}: {old}", f"{a}: 1.0", steepest(a))
        for a, old in [
            (Activation.GELU, "1.12890414518516"),
            (Activation.SILU, "1.09983932012887"),
        ]
    },
    "swing is L": ("constants", "2 * L - 1)", "L)", swinging(Activation.GELU)),
    "swing is one": ("constants", "2 * L - 1)", "1.0)", swinging(Activation.SILU)),
    "swing of relu": (
        "constants",
        f"{RELU}: 1.0, {IDENTITY}",
        f"{RELU}: 0.9, {IDENTITY}",
        swinging(Activation.RELU),
    ),
    **{
        f"M {a.value}": ("constants", f"{a}: {old},\n", f"{a}: {new},\n", bending(a))
        for a, old, new in [
            (Activation.GELU, "0.797884560802866", "0.7978"),
            (Activation.GELU_TANH, "0.797884560802866", "0.7978"),
            (Activation.SILU, "0.5", "0.4999"),
            (Activation.QUICK_GELU, "0.8510000000000001", "0.8509"),
        ]
    },
    "M relu": ("constants", f"{RELU}: math.inf", f"{RELU}: 1.0", bending(Activation.RELU)),
    **{
        f"least {a.value}": ("constants", f"{a}: {old}", f"{a}: {new}", lowest)
        for a, old, new in [
            (Activation.GELU, "-0.169971207479904", "-0.16997"),
            (Activation.GELU_TANH, "-0.170040750571255", "-0.17004"),
            (Activation.SILU, "-0.278464542761074", "-0.27846"),
            (Activation.QUICK_GELU, "-0.163610189636354", "-0.16361"),
        ]
    },
    **{
        f"x* {a.value}": ("constants", f"{a}: {old},\n", f"{a}: {new},\n", steepest(a))
        for a, old, new in [
            (Activation.GELU, "math.sqrt(2)", "1.5"),
            (Activation.GELU_TANH, "1.4185040087908284", "1.5"),
            (Activation.SILU, "2.3993572805154677", "2.5"),
            (Activation.QUICK_GELU, "2.3993572805154677 / 1.702", "2.3993572805154677"),
        ]
    },
    "top of slopes": ("constants", "torch.maximum(*ends)", "torch.minimum(*ends)", kept),
    "bottom of slopes": ("constants", "torch.minimum(*ends)", "torch.maximum(*ends)", added),
    "trough is one minus L": (
        "constants",
        "least = (1 - LIPSCHITZ[activation])",
        "least = (0 * LIPSCHITZ[activation])",
        swinging(Activation.SILU),
    ),
    "trough is on the left": (
        "constants",
        "(low <= -peak) & (-peak <= high)",
        "(low <= peak) & (peak <= high)",
        falling,
    ),
    "slopes can be negative": ("constants", "torch.maximum(top, -bottom)", "top", falling),
    "relu is off below its kink": ("constants", "on = high > 0", "on = low > 0", kept),
    "relu has a kink": ("constants", "(on & (low >= 0))", "on", swinging(Activation.RELU)),
    "drop the residual": (
        "paths",
        "gap = (self.true - self.reconstructed).abs()",
        "gap = 0 * self.true",
        kept,
    ),
    "signed residual": (
        "paths",
        "gap = (self.true - self.reconstructed).abs()",
        "gap = self.true - self.reconstructed",
        kept,
    ),
    "drop the bias": (
        "paths",
        "return self.baseline + self.dominant",
        "return self.dominant",
        kept,
    ),
    "signed rest": (
        "paths",
        "(self.high - self.low) - self",
        "(self.high + self.low) - self",
        kept,
    ),
    "hull without the rest": (
        "paths",
        "self.baseline + self.low, self.baseline + self.high",
        "self.baseline + self.low, self.baseline + self.dominant",
        added,
    ),
    "hull without the truth": (
        "paths",
        "torch.stack([self.true, self.reconstructed, self.kept])",
        "torch.stack([self.reconstructed, self.kept])",
        kept,
    ),
    "hull upside down": (
        "paths",
        "points.amin(0), points.amax(0)",
        "points.amin(0), points.amin(0)",
        kept,
    ),
    "interval upside down": (
        "paths",
        "torch.minimum(one, other), torch.maximum(one, other)",
        "one, other",
        kept,
    ),
    "slack narrows": ("paths", "(low - self.slack, high + self.slack)", "(low, high)", slackened),
    "slack is not an error": (
        "paths",
        "gap if self.slack is None else gap + self.slack",
        "gap",
        slackened,
    ),
    "negative activations": (
        "paths",
        "sparse_product(up, negative) + sparse_product(down, positive)",
        "sparse_product(up, negative) + sparse_product(down, negative)",
        kept,
    ),
    "B3 without L": (
        "ladder",
        "B3=slope * (moved @ norms)",
        "B3=moved @ norms",
        steepest(Activation.GELU),
    ),
    "B4 without L": (
        "ladder",
        "B4=residual + slope * interaction",
        "B4=residual + interaction",
        steepest(Activation.GELU),
    ),
    "R without L": (
        "ladder",
        "slope * (path.error @ norms), path.rest",
        "path.error @ norms, path.rest",
        steepest(Activation.SILU),
    ),
    "B4 without R": ("ladder", "B4=residual + slope", "B4=slope", kept),
    "signed sum in B2": (
        "ladder",
        "path.error + path.signed_rest.abs()",
        "path.error + path.signed_rest",
        kept,
    ),
    "rest without residual": (
        "ladder",
        "path.error + path.signed_rest.abs()",
        "path.signed_rest.abs()",
        kept,
    ),
    "signed rest in gap": (
        "ladder",
        "error, rest = path.error, path.signed_rest.abs()",
        "error, rest = path.error, path.signed_rest",
        kept,
    ),
    "gap forgets rest": ("ladder", "first * error + second * rest", "first * error", kept),
    "gap forgets residual": ("ladder", "first * error + second * rest", "second * rest", kept),
    "slopes swapped in gap": (
        "ladder",
        "first * error + second * rest",
        "second * error + first * rest",
        kept,
    ),
    "residual gap without slope": (
        "ladder",
        "_zero_or_upward(slope * path.error)",
        "_zero_or_upward(0.9 * path.error)",
        kept,
    ),
    "signed functional": ("functionals", "delta @ readout.abs()", "delta @ readout", projected),
    "margin adds rows": (
        "functionals",
        "(own - readout[:, part]).abs()",
        "(own + readout[:, part]).abs()",
        projected,
    ),
    "margin forgets a row": (
        "functionals",
        "(own - readout[:, part]).abs()",
        "own.abs()",
        projected,
    ),
    "signed Gram matrix": (
        "functionals",
        "(W_out[part] @ W_out.T).abs()",
        "(W_out[part] @ W_out.T)",
        projected,
    ),
    "triangle of means": (
        "functionals",
        "upward(delta @ W_out.norm(dim=1), sum",
        "upward(delta @ W_out.norm(dim=1) / 2, sum",
        projected,
    ),
    "spectral of maximum": (
        "functionals",
        "spectral_norm(W_out) * delta.norm(dim=1)",
        "spectral_norm(W_out) * delta.amax(1)",
        projected,
    ),
    "signed minimum": (
        "additive",
        "minima = torch.minimum(before, later.abs())",
        "minima = torch.minimum(before, later)",
        swinging(Activation.GELU),
    ),
    "signed partial sums": (
        "additive",
        "before = ordered.cumsum(1)[:, :-1].abs()",
        "before = ordered.cumsum(1)[:, :-1]",
        swinging(Activation.GELU),
    ),
    "partial sums too late": (
        "additive",
        "before = ordered.cumsum(1)[:, :-1].abs()",
        "before = ordered.cumsum(1)[:, 1:].abs()",
        cancelling,
    ),
    "hull of the total": (
        "additive",
        "high = baseline + p.clamp_min(0).sum(1)",
        "high = baseline + p.sum(1)",
        cancelling,
    ),
    "hull without the bottom": (
        "additive",
        "low = baseline + p.clamp_max(0).sum(1)",
        "low = baseline + p.sum(1)",
        cancelling,
    ),
    "pairs forget half": (
        "additive",
        "torch.minimum(size, size[:, slot, None])",
        "0.5 * torch.minimum(size, size[:, slot, None])",
        swinging(Activation.GELU),
    ),
    "curvature forgets pairs": (
        "additive",
        "magnitude_before = size.cumsum(1)[:, :-1]",
        "magnitude_before = 0.5 * size.cumsum(1)[:, :-1]",
        bending(Activation.GELU),
    ),
    "additive gap without residual": (
        "additive",
        "residual_gap(activation, path) + additive",
        "additive",
        added,
    ),
    "additive gap without interaction": (
        "additive",
        "residual_gap(activation, path) + additive",
        "residual_gap(activation, path)",
        added,
    ),
    "rest form without interaction": (
        "additive",
        "additive = swing * rest",
        "additive = 0 * rest",
        added,
    ),
    "box corners swapped": (
        "additive",
        "return same_low + cross_high, same_high + cross_low",
        "return same_low + cross_low, same_high + cross_high",
        boxed,
    ),
    "box without the crossing": (
        "additive",
        "return same_low + cross_high, same_high + cross_low",
        "return same_low, same_high",
        boxed,
    ),
    "gated without the gate": (
        "gated",
        "GatedTerms(slope * value * g,",
        "GatedTerms(0 * value * g,",
        crossing,
    ),
    "gated without L": (
        "gated",
        "GatedTerms(slope * value * g,",
        "GatedTerms(0.95 * value * g,",
        crossing,
    ),
    "gated without the value": ("gated", "opening * v, slope", "0 * v, slope", crossing),
    "gated without the product": (
        "gated",
        "opening * v, slope * g * v",
        "opening * v, 0 * g * v",
        crossing,
    ),
    "signed value": (
        "gated",
        "activation(at_gate).abs(), at_linear.abs()",
        "activation(at_gate).abs(), at_linear",
        crossing,
    ),
    "signed gate": (
        "gated",
        "activation(at_gate).abs(), at_linear.abs()",
        "activation(at_gate), at_linear.abs()",
        crossing,
    ),
    "same end twice": (
        "gated",
        "torch.minimum(moved.gate + swapped.linear, swapped.gate + moved.linear)",
        "moved.gate + moved.linear",
        crossing,
    ),
    "gated gap without residual": (
        "gated",
        "bound = sharp + gated_residual(activation, gate, linear, local=True).total",
        "bound = sharp",
        crossing,
    ),
    "gated additive without the gate": (
        "gated",
        "base_linear.abs() * gate + slope",
        "0 * gate + slope",
        gated_pairs,
    ),
    "gated additive without the crossing": (
        "gated",
        "base_linear.abs() * gate + slope *",
        "base_linear.abs() * gate + 0 * slope *",
        gated_pairs,
    ),
    "gated additive with itself": (
        "gated",
        "p_gate.sum(1, keepdim=True) - p_gate",
        "0.3 * p_gate",
        gated_pairs,
    ),
    "gated pairs cross once": (
        "gated",
        "(crossed + crossed.transpose(1, 2))",
        "crossed",
        gated_pairs,
    ),
    "gated pairs without the gate": (
        "gated",
        "return pairwise_minima(p_gate, swing) +",
        "return",
        gated_pairs,
    ),
    "softmax constant": (
        "attention",
        "torch.tanh(width / 4)",
        "torch.tanh(width / 4.01)",
        attending,
    ),
    "range of an error": (
        "attention",
        "variation_of_range(2 * tau)",
        "variation_of_range(1.99 * tau)",
        attending,
    ),
    "others stay": (
        "attention",
        "up / (up + rest_down.clamp_min(0))",
        "up / (up + rest_up)",
        attending,
    ),
    "others fall": ("attention", "down / (down + rest_up)", "down / (down + rest_down)", attending),
    "sum for range": (
        "attention",
        "values.amax(-1) - values.amin(-1)",
        "values.amax(-1) + values.amin(-1)",
        attending,
    ),
    "norm for range": (
        "attention",
        "values.amax(-1) - values.amin(-1)",
        "values.abs().amax(-1)",
        attending,
    ),
    "worst first": (
        "attention",
        "values.argsort(dim=-1, descending=True)",
        "values.argsort(dim=-1)",
        attending,
    ),
    "kept for dropped": (
        "attention",
        "torch.where(kept, 0, scores.abs())",
        "torch.where(kept, scores.abs(), 0)",
        scoring,
    ),
    "signed scores": (
        "attention",
        "torch.where(kept, 0, scores.abs())",
        "torch.where(kept, 0, scores)",
        scoring,
    ),
    "scores without scale": ("attention", "return scale * scores", "return scores", scoring),
    **{
        f"residual term {number}": ("attention", old, new, scoring)
        for number, (old, new) in enumerate(
            [
                ("(size(x_error, y) + ", "("),
                (" + size(x, y_error)", ""),
                (" + size(x_error, y_error))", ")"),
            ]
        )
    },
    "error adds to margins": (
        "margins",
        "label_margins(abstract, labels) - margin",
        "label_margins(abstract, labels) + margin",
        certified,
    ),
    "margins forget the error": (
        "margins",
        "- margin_bound(delta, readout, labels)",
        "",
        certified,
    ),
    "margins reversed": (
        "margins",
        "logits.gather(1, labels[:, None]) - logits",
        "logits - logits.gather(1, labels[:, None])",
        certified,
    ),
    "loss rises with margins": ("margins", "terms = (-mu)", "terms = mu", certified),
    "loss forgets the label": (
        "margins",
        "labels[:, None], 0.0)",
        "labels[:, None], -math.inf)",
        certified,
    ),
    "a tie is correct": ("margins", "(others > 0)", "(others >= 0)", certified),
    "one margin suffices": ("margins", "(others > 0).all(1)", "(others > 0).any(1)", certified),
    "margins through the norm forget the error": (
        "margins",
        "least = least - margin_bound(",
        "least = least - 0 * margin_bound(",
        through_norm,
    ),
    "margins through the norm without bias": (
        "margins",
        "offsets[labels][:, None] - offsets",
        "0 * (offsets[labels][:, None] - offsets)",
        through_norm,
    ),
    "no ball around the norm": (
        "margins",
        "norm.scale_range(r, gram_bound(delta, W_out))",
        "norm.scale_range(r, 0 * gram_bound(delta, W_out))",
        through_norm,
    ),
    "worse end of the norm": (
        "norms",
        "torch.where(least >= 0, high[:, None], low[:, None])",
        "torch.where(least >= 0, low[:, None], high[:, None])",
        normed,
    ),
    "worse end of the shift": (
        "norms",
        "torch.minimum(low[:, None] * shift",
        "torch.maximum(low[:, None] * shift",
        normed,
    ),
    "scale does not fall": ("norms", "(length - radius - blur)", "(length - blur)", normed),
    "scale does not rise": ("norms", "(length + radius + blur)", "(length + blur)", normed),
    "ball holds the origin": (
        "norms",
        "(length - radius - blur).clamp_min(0)",
        "(length - radius - blur)",
        normed,
    ),
    "slope at the far end": (
        "norms",
        "math.sqrt(self.width) / low",
        "math.sqrt(self.width) / _",
        normed,
    ),
    "slope without width": ("norms", "math.sqrt(self.width) / low", "1 / low", normed),
    "step forgets the ball": (
        "induction",
        "lipschitz * radius + interaction + defect",
        "interaction + defect",
        inductive,
    ),
    "step forgets the interaction": (
        "induction",
        "lipschitz * radius + interaction + defect",
        "lipschitz * radius + defect",
        inductive,
    ),
    "step forgets the defect": (
        "induction",
        "lipschitz * radius + interaction + defect",
        "lipschitz * radius + interaction",
        inductive,
    ),
    "slope at the centre": ("induction", "z - reach, z + reach", "z, z", inductive),
    "slope in the middle": (
        "induction",
        "spectral_norm(jacobian) + left * right",
        "spectral_norm(jacobian)",
        inductive,
    ),
    "block without its skip": (
        "induction",
        "upward(1 + through * inner)",
        "upward(through * inner)",
        inductive,
    ),
    "defect without constants": ("induction", "total + constant.norm()", "total", inductive),
    "defect without latents": (
        "induction",
        "total + constant.norm()",
        "0 * total + constant.norm()",
        inductive,
    ),
    "rounding of long sums": ("slack", "k * roundoff / (1 - k * roundoff)", "roundoff", rounded),
    "signed magnitudes": ("slack", "left.abs() @ right.abs()", "left @ right", rounded),
    "slack forgets the offset": (
        "slack",
        "magnitude = magnitude + offset.abs()",
        "magnitude = 0 * magnitude",
        rounded,
    ),
    "centred half from above alone": (
        "centred",
        "torch.maximum(top - slope, slope - bottom)",
        "0.98 * (top - slope)",
        centring,
    ),
    "centred gap without its half": ("centred", "half * moved.abs()", "0 * moved.abs()", centring),
    "centred gap signed": ("centred", "half * moved.abs()", "half * moved", centring),
    "centred step of the wrong sign": ("centred", "slope * moved,", "-slope * moved,", centring),
    "centred without the slope's slack": (
        "centred",
        "(half + slope.abs()) * path.slack",
        "half * path.slack",
        centring,
    ),
    "centred without slack": ("centred", "(half + slope.abs()) * path.slack", "0", centring),
    "slack forgets L": ("slack", "LIPSCHITZ[activation] * error", "error", rounded),
}


PASSED: set[Callable[[SimpleNamespace], None]] = set()
"""Checks that the original has passed."""


@pytest.fixture(scope="module")
def original() -> SimpleNamespace:
    return load()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_an_inequality(name: str, original: SimpleNamespace) -> None:
    module, old, new, run = MUTANTS[name]
    if run not in PASSED:
        run(original)
        PASSED.add(run)
    mutant = load(module, old, new)
    with pytest.raises(AssertionError):
        run(mutant)


def test_loading_a_mutant_leaves_the_package_alone() -> None:
    before = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    load("ladder", "B4=residual + slope * interaction", "B4=residual")
    after = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    assert before == after
