"""Other names of hookpoints: synonyms at one place, and paths of Hugging Face modules."""

from __future__ import annotations

from crossproof.lm.hookpoints import standard_names
from crossproof.lm.model import LanguageModel
from crossproof.lm.sites import Site

_USUAL = (
    *("hook_resid_pre", "hook_resid_post", "mlp.hook_out", "attn.hook_out"),
    *("hook_mlp_out", "hook_attn_out"),
)
"""In the order in which they are preferred; the last two are names behind a second norm."""


def canonical(model: LanguageModel, name: str) -> str | None:
    """The usual name of the place that `name` calls by any of its names; None if it names none."""
    site = model._sites.get(name)
    return None if site is None else _name(model, site, name)


def module_hookpoint(model: LanguageModel, path: str, at_input: bool) -> str | None:
    """The hookpoint at a module's output or input, for a path such as `h.3.mlp`.

    The path may leave out the beginning of the module's full name. None if no module, or more
    than one, has such a name, or if no hookpoint lies there.
    """
    found = [
        module
        for name, module in model._bare.named_modules()
        if name == path or name.endswith(f".{path}")
    ]
    return _name(model, Site(found[0], at_input)) if len(found) == 1 else None


def _name(model: LanguageModel, site: Site, otherwise: str | None = None) -> str | None:
    names = [name for name, other in model._sites.items() if other == site]
    standard = [name for name in names if name in standard_names(model.n_blocks)]
    usual = [name for role in _USUAL for name in names if name.endswith(role)]
    return next(iter([*standard, *usual]), otherwise or next(iter(names), None))
