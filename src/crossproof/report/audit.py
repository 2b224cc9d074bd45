"""The page of an audit: which texts stand out, by which detectors, and where inside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossproof.auditing.result import AuditResult, ColouredTexts
from crossproof.evaluation.contexts import Context
from crossproof.evaluation.views_note import views_note
from crossproof.files import write_text
from crossproof.report.page import page_template

LAYERS = {
    "I": ("Interaction I", "var(--run-1)"),
    "error": ("Reconstruction error", "var(--run-2)"),
    "loss": ("Loss", "var(--run-5)"),
}


@dataclass(frozen=True)
class Layer:
    """One text coloured by one quantity."""

    label: str
    colour: str
    context: Context
    largest: float
    """What has full strength."""


def write_audit(folder: Path, audit: AuditResult) -> Path:
    """Writes `folder`/report.html, and returns its path; CrossproofError if it cannot."""
    page = page_template("audit.html.jinja").render(
        headline=headline(audit),
        sentences=sentences(audit),
        audit=audit,
        coloured=coloured(audit.shown),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def headline(audit: AuditResult) -> str:
    """How many texts stand out by the ranking detector, and by the best that knows less."""
    name, texts = audit.settings.detector, audit.suspect.texts
    ranking, best = audit.detectors[name], simplest(audit)
    expected = ranking.level * texts
    beside = (
        "no more than chance would give" if ranking.flagged <= 2 * expected + 1 else "beyond chance"
    )
    said = f"{ranking.flagged} of {texts} suspect texts stand out by “{name}”: {beside}"
    if ranking.flagged == 0:
        said = f"None of {texts} suspect texts stands out by “{name}”"
    if best != name and audit.detectors[best].flagged > ranking.flagged:
        said += f"; {audit.detectors[best].flagged} by “{best}”"
    return said


def simplest(audit: AuditResult) -> str:
    """The detector that flags most of those that look at no interactions."""
    simple = [name for name, entry in audit.detectors.items() if entry.kind != "interaction"]
    return max(simple, key=lambda name: audit.detectors[name].flagged)


def sentences(audit: AuditResult) -> list[str]:
    """What was done, and what the simplest detectors say beside the chosen one."""
    trusted, name, texts = audit.trusted, audit.settings.detector, audit.suspect.texts
    ranking, best = audit.detectors[name], simplest(audit)
    lines = [
        f"Detectors were fitted on {trusted.fit} trusted texts and calibrated on "
        f"{trusted.calibrate} others; a text is flagged if at most {ranking.level:.1%} of trusted "
        f"texts score as high. Of {texts} texts about {ranking.level * texts:.1f} are flagged by "
        f"chance.",
        f"“{name}” ({ranking.about}) flags {ranking.flagged}.",
    ]
    simple = audit.detectors[best]
    if best != name and simple.flagged >= ranking.flagged:
        lines.append(
            f"A simpler detector does as well: “{best}” ({simple.about}) flags {simple.flagged}. "
            f"What stands out need not be an interaction."
        )
    if audit.views:
        lines.append(views_note({"": audit.views}))
    if audit.suspect.cut or trusted.cut:
        lines.append(
            f"{audit.suspect.cut} suspect and {trusted.cut} trusted texts were longer than the "
            f"context, and only their beginnings were read."
        )
    return lines


def coloured(shown: ColouredTexts) -> dict[int, list[Layer]]:
    """The first texts by place, a layer a quantity: how far tokens are above the trusted median.

    Full strength is the largest among the shown texts, or the 99th percentile of trusted tokens.
    """
    texts: dict[int, list[Layer]] = {text.place: [] for text in shown.texts}
    for name, (label, colour) in LAYERS.items():
        median = shown.median[name]
        largest = max([shown.high[name], *(max(text.values[name]) for text in shown.texts)])
        for text in shown.texts:
            above = [max(0.0, value - median) for value in text.values[name]]
            context = Context(tuple(text.tokens), tuple(above), above.index(max(above)))
            texts[text.place].append(Layer(label, colour, context, largest - median))
    return texts
