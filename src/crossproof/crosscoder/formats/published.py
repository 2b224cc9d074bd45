"""Where dictionaries are that are given by name, and what their publishers say outside the files.

A name is a path, a place of the Hub (`hf:REPO[@REVISION][:FOLDER]`) or one of SAELens's releases
(`saelens:RELEASE/ID`), whose list stands in the package sae-lens, where that is installed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from crossproof.crosscoder.formats.files import Config, config_at
from crossproof.crosscoder.formats.hub import PREFIX, HubPlace, fetch
from crossproof.errors import CrossproofError, nearest

RELEASE = "saelens:"
_GEMMA_SCOPE = re.compile(r"google/gemma-scope-\d+b-(?:pt|it)-(res|mlp|att|transcoders)(?:-\w+)?")
_POST, _OUT = "blocks.*.hook_resid_post", "blocks.*.hook_mlp_out"
_GEMMA_SCOPE_HOOKS = {
    "res": (_POST,),
    "mlp": (_OUT,),
    "att": ("blocks.*.attn.hook_z",),
    "transcoders": ("blocks.*.ln2.hook_normalized", _OUT),
}
"""By the kind of repository; their files name no hookpoint."""
_CONVERSIONS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "sae_lens": ("saelens", None),
    "gemma_2": ("gemma_scope", None),
    "gemma_2_transcoder": ("gemma_scope", None),
    "gemma_3": ("gemma_scope", None),
    "sparsify": ("sparsify", None),
    "dictionary_learning_1": ("dictionary_learning", (_POST,)),
    "deepseek_r1": ("dictionary_learning", None),
    "llama_scope": ("llamascopium", None),
    "llama_scope_r1_distill": ("llamascopium", None),
    "mwhanna_transcoder": ("circuit_tracer", ("blocks.*.mlp.hook_in", _OUT)),
}
"""By SAELens's name of a conversion: our format, and hookpoints if the files name none."""


@dataclass(frozen=True)
class Located:
    """A file or folder on this machine, and what else is known of its dictionaries."""

    path: Path
    label: str | None = None
    """What it is called where it comes from."""
    format: str | None = None
    hookpoints: tuple[str, ...] | None = None
    """Where the files name none."""
    centred: bool | None = None
    scale: float | None = None
    """What activations are multiplied by first."""
    scale_unsaid: float | None = None
    """The same, where the files leave it open."""


def located(name: str | Path) -> list[Located]:
    """Where the dictionaries of a name are, downloaded if need be.

    Raises CrossproofError for a name that is none, and as `fetch`.
    """
    text = str(name)
    if text.startswith(RELEASE):
        release, _, identity = text.removeprefix(RELEASE).partition("/")
        return _release(release, identity)
    if text.startswith((PREFIX, "hf://")):
        return _on_hub(HubPlace.of(text))
    return [Located(Path(name))]


def _on_hub(place: HubPlace) -> list[Located]:
    path, exact = fetch(place)
    found = Located(path, str(exact))
    kind = _GEMMA_SCOPE.fullmatch(place.repository)
    if kind is not None and path.exists():
        return [_gemma_scope(found, kind[1], place)]
    config = config_at(path / "config.yaml")
    uris = config.get("transcoders")
    if not isinstance(uris, list):
        return [found]
    sides = (config.text(f"feature_{side}_hook") for side in ("input", "output"))
    roles = [role for role in sides if role is not None]
    return list(_layers_elsewhere(uris, roles))


def _layers_elsewhere(uris: list[Any], roles: list[str]) -> Iterator[Located]:
    """A set of circuit-tracer whose layers lie in other repositories."""
    for layer, uri in enumerate(uris):
        match = re.fullmatch(r"hf://([^/]+/[^/]+)/([^?]+)(?:\?revision=(.+))?", str(uri))
        if match is None:
            raise CrossproofError(f"The set names {uri!r} as a transcoder: no file of the Hub.")
        path, exact = fetch(HubPlace(match[1], match[2], match[3]))
        hooks = tuple(f"blocks.{layer}.{role}" for role in roles) or None
        yield Located(path, str(exact), hookpoints=hooks)


def _gemma_scope(found: Located, kind: str, place: HubPlace) -> Located:
    """Embeddings were scaled by √D only where the model's stream begins, so there they are read."""
    hooks = _GEMMA_SCOPE_HOOKS[kind]
    if "embedding" not in Path(place.inside).parts:
        return replace(found, hookpoints=hooks)
    from crossproof.crosscoder.formats.gemma_scope import read

    width = read(next(found.path.rglob("params.npz"), found.path))[0].b_dec.shape[-1]
    hook = ("blocks.0.hook_resid_pre",)
    return replace(found, hookpoints=hook, scale=width**-0.5)


def _release(release: str, identity: str) -> list[Located]:
    entry = _entry(_releases(), release)
    listed = entry.get("saes")
    named = [sae for sae in listed if isinstance(sae, dict)] if isinstance(listed, list) else []
    saes = {str(sae.get("id")): Config(sae, entry.source) for sae in named}
    if identity not in saes:
        known = nearest(identity, saes) or f" It has {', '.join(list(saes)[:3])} and others."
        known = known if saes else " It lists none."
        raise CrossproofError(f"The release '{release}' has no dictionary '{identity}'.{known}")
    conversion = entry.text("conversion_func") or "sae_lens"
    if conversion not in _CONVERSIONS:
        raise CrossproofError(
            f"The release '{release}' is in a form of its own ({conversion}) that crossproof does "
            f"not read: choose another release, or convert it with SAELens and import what that "
            f"saves."
        )
    format, hookpoints = _CONVERSIONS[conversion]
    path, repository = saes[identity].text("path") or "", entry.text("repo_id")
    if repository is None:
        raise CrossproofError(
            f"SAELens's list names no repository of the release '{release}': give it (hf:OWNER/"
            f"REPOSITORY:FOLDER)."
        )
    if conversion == "deepseek_r1":
        layer = re.search(r"l(\d+)", path)
        hookpoints = None if layer is None else (f"blocks.{layer[1]}.hook_resid_post",)
    given = entry.mapping("config_overrides").mapping("model_from_pretrained_kwargs")
    unsaid = given.get("center_writing_weights") is None
    centred = None if unsaid else given.flag("center_writing_weights")
    return [
        replace(
            found,
            format=found.format or format,
            hookpoints=found.hookpoints or hookpoints,
            centred=centred,
            scale_unsaid=saes[identity].number("norm_scaling_factor"),
        )
        for found in _on_hub(HubPlace(repository, path.strip("/")))
    ]


def _entry(releases: Mapping[str, Any], release: str) -> Config:
    known = [name for name, entry in releases.items() if isinstance(entry, dict)]
    if release not in known:
        raise CrossproofError(f"SAELens lists no release '{release}'.{nearest(release, known)}")
    return Config(releases[release], Path(f"SAELens's list, of '{release}',"))


def _releases() -> Mapping[str, Any]:
    """SAELens's own list of releases, without importing it."""
    package = importlib.util.find_spec("sae_lens")
    places = [] if package is None else package.submodule_search_locations or []
    lists = (Path(place) / "pretrained_saes.yaml" for place in places)
    file = next((path for path in lists if path.is_file()), None)
    if file is None:
        raise CrossproofError(
            "Release names stand in SAELens's own list, and SAELens is not installed here: install "
            "sae-lens, or give the repository and folder instead (hf:OWNER/REPOSITORY:FOLDER)."
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CrossproofError(f"{file} cannot be read: install sae-lens anew.") from error
    releases = content.items() if isinstance(content, dict) else ()
    return {str(name): entry for name, entry in releases}
