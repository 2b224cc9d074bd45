"""Reading certificates about listed contexts: the last blocks of a language model, and its codes.

The folder holds the end of the model from the stream at an MLP's entry on, the dictionary at the
MLPs' inputs, and for every context the model's own stream and latents there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from crossproof.proof.certificate import headers
from crossproof.proof.certificate.format import (
    HEADER,
    LARGEST_SUM,
    SCHEMA,
    Described,
    Limits,
    Tensors,
    bytes_of,
    check_hashes,
    check_names,
    check_range,
    check_type,
    load_tensors,
    part_of,
    tensors_hash,
)
from crossproof.proof.certificate.headers import HASH, MODEL, is_number
from crossproof.proof.certificate.reading import CertificateError, quoted

KIND, MOST_STATEMENTS = "contexts", 64
ASSUMPTIONS = (
    "The streams and latents saved are those of the model and the dictionary at these contexts.",
    "The model is its blocks from there on in real arithmetic, with the weights saved.",
    "The latents that a neuron keeps are those whose contribution is largest in float64.",
)
KEYS = {"schema", "verifier", "kind", "claim", "assumptions", "model", "dictionary"}
KEYS |= {"shape", "hashes", "task", "cost"}
STATEMENT = {"mlps", "keep", "kept", "loss_change", "token_change"}
PARTS = ("weights", "dictionary", "contexts")
NORMED = ("norm_weight", "norm_bias")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "identity")
WHOLE = {"contexts.tokens", "contexts.scored", "contexts.offsets", "contexts.indices"}


@dataclass(frozen=True)
class ContextStatement:
    """What replacing the last MLPs does to the predictions of the listed contexts."""

    mlps: int
    """1: the last MLP; 2: the last two."""
    keep: int
    """Latents that every neuron of them reads."""
    kept: int
    """Predictions whose most likely token is the model's, at least so many."""
    loss_change: float
    """The mean loss moves by at most this, nats, up or down."""
    token_change: float
    """A prediction's loss moves by at most this in the mean over predictions."""


@dataclass(frozen=True)
class ModelShape:
    """What of the model's end is not a tensor."""

    mlps: int
    """How many MLPs are in the file: the last one or two."""
    activations: tuple[str, ...]
    """Of each of them, the last one last."""
    gated: tuple[bool, ...]
    epsilons: Mapping[str, float]
    """Of the norms before the MLPs (`mlp0`, `mlp1`), the attention and the logits (`final`)."""
    centred: Mapping[str, bool]
    """Whether they subtract the mean."""
    scale: float = 1.0
    """Of the attention's scores."""
    window: int | None = None
    """Positions that the attention sees; None: all."""
    rotary: bool = False

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the norms."""
        attention = ("attention",) if self.mlps > 1 else ()
        return (*(f"mlp{i}" for i in range(self.mlps)), *attention, "final")

    @property
    def layout(self) -> dict[str, str]:
        """The tensors and their shapes; a letter is the same size wherever it stands."""
        found = {f"weights.{norm}.{name}": "D" for norm in self.norms for name in NORMED}
        for i, gated in enumerate(self.gated):
            reads = {"W_in": f"D N{i}", "b_in": f"N{i}", "W_out": f"N{i} D", "b_out": "D"}
            reads |= {"W_gate": f"D N{i}", "b_gate": f"N{i}"} if gated else {}
            found |= {f"weights.mlp{i}.{name}": shape for name, shape in reads.items()}
            found |= {f"dictionary.mlp{i}.atoms": "H D", f"dictionary.mlp{i}.bias": "D"}
        if self.mlps > 1:
            heads = {"W_Q": "A D F", "b_Q": "A F", "W_K": "R D F", "b_K": "R F"}
            heads |= {"W_V": "R D F", "b_V": "R F", "W_O": "A F D", "b_O": "D"}
            heads |= {"cos": "T P", "sin": "T P"} if self.rotary else {}
            found |= {f"weights.attention.{name}": shape for name, shape in heads.items()}
        found |= {"weights.final.unembedding": "V D", "weights.final.unembedding_bias": "V"}
        found |= {"contexts.tokens": "S T", "contexts.scored": "S T", "contexts.stream": "S T D"}
        return found | {"contexts.offsets": "B", "contexts.indices": "E", "contexts.values": "E"}


@dataclass(frozen=True, eq=False)
class ContextsCertificate:
    """What a folder holds; well-formed, but nothing in it is believed yet."""

    shape: ModelShape
    statements: tuple[ContextStatement, ...]
    tensors: Tensors
    """float64 or int64, by name: weights.*, dictionary.*, contexts.*"""
    sizes: Mapping[str, int]
    model: str
    dictionary: str
    task: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0

    @property
    def about(self) -> dict[str, str]:
        """The hashes that a reader can insist on."""
        return {"model": self.model, "dictionary": self.dictionary}

    @property
    def memory(self) -> int:
        """Bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each part's tensors."""
        return {part: tensors_hash(part_of(self.tensors, part)) for part in PARTS}


def read_contexts(folder: Path, limits: Limits | None = None) -> ContextsCertificate:
    """Reads a certificate and checks form, numbers and hashes.

    Raises CertificateError, in one sentence, for anything that is not as the format says.
    """
    header = _read_header(folder / HEADER)
    shape = _shape(header["shape"], folder / HEADER)
    sizes, tensors = load_tensors(folder, lambda d: check_shapes(shape, d), limits, _looking)
    for name, tensor in tensors.items():
        check_range(name, tensor)
    statements = tuple(ContextStatement(**each) for each in header["claim"]["statements"])
    if any(statement.mlps > shape.mlps for statement in statements):
        raise CertificateError(f"{folder} speaks of two MLPs, and holds one.")
    read = ContextsCertificate(
        shape, statements, tensors, sizes,
        **{key: header[key] for key in ("model", "dictionary", "task", "cost")},
        bytes=bytes_of(folder),
    )  # fmt: skip
    check_codes(read)
    check_hashes(folder, read.hashes, header["hashes"])
    return read


def _looking(sizes: Mapping[str, int]) -> int:
    """Bytes that `check_codes` takes: of latents, and of contexts that must differ."""
    return 48 * sizes["E"] + sizes["S"] * (8 * sizes["T"] + 160)


def check_shapes(shape: ModelShape, described: Described) -> dict[str, int]:
    """The sizes that letters stand for; CertificateError for a tensor that is not as it should."""
    layout, sizes = shape.layout, dict[str, int]()
    check_names(KIND, described, layout)
    for name, letters in layout.items():
        found, whole = described[name]
        check_type(name, whole, name in WHOLE)
        pairs = zip(letters.split(), found, strict=False)
        fits = all(0 < n <= LARGEST_SUM * 64 and sizes.setdefault(k, n) == n for k, n in pairs)
        if not fits or len(found) != len(letters.split()):
            raise CertificateError(f"{name} has shape {quoted(list(found))}, not [{letters}].")
    if max(n for k, n in sizes.items() if k not in "SBE") > LARGEST_SUM or sizes["V"] < 2:
        raise CertificateError("The certificate has too many classes, or fewer than two.")
    if sizes.get("A", 1) % sizes.get("R", 1) or 2 * sizes.get("P", 0) > sizes.get("F", 0):
        raise CertificateError("The attention's heads do not divide into groups, or turn too far.")
    return sizes


def check_codes(certificate: ContextsCertificate) -> None:
    """Raises CertificateError for tokens, latents or offsets that are out of range."""
    contexts, sizes = part_of(certificate.tensors, "contexts"), certificate.sizes
    tokens, scored, offsets = contexts["tokens"], contexts["scored"], contexts["offsets"]
    if tokens.min() < 0 or tokens.max() >= sizes["V"]:
        raise CertificateError("contexts.tokens must be classes of the unembedding.")
    if not ((scored == 0) | (scored == 1)).all() or not scored[:, :-1].any():
        raise CertificateError("contexts.scored must be 0 or 1, and 1 somewhere before the end.")
    if contexts["indices"].min() < 0 or contexts["indices"].max() >= sizes["H"]:
        raise CertificateError("contexts.indices must be latents of the dictionary.")
    ends = len(offsets) == scored.sum() + 1 and offsets[0] == 0 and offsets[-1] == sizes["E"]
    if not ends or (offsets[1:] < offsets[:-1]).any():
        raise CertificateError("contexts.offsets must rise from 0 to the number of latents.")
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if len(np.unique(rows * sizes["H"] + contexts["indices"])) != len(rows):
        raise CertificateError("contexts.indices names a latent twice at one position.")
    if len({row.tobytes() for row in tokens}) != len(tokens):
        raise CertificateError("A context is listed twice: each may count once.")


def header_of(certificate: ContextsCertificate) -> dict[str, Any]:
    """certificate.json."""
    return {
        "schema": SCHEMA,
        "verifier": SCHEMA,
        "kind": KIND,
        "claim": {"statements": [asdict(each) for each in certificate.statements]},
        "assumptions": list(ASSUMPTIONS),
        "model": certificate.model,
        "dictionary": certificate.dictionary,
        "shape": asdict(certificate.shape),
        "hashes": certificate.hashes,
        "task": dict(certificate.task),
        "cost": dict(certificate.cost),
    }


def _read_header(path: Path) -> dict[str, Any]:
    header = headers.read_header(path, KEYS)
    headers.check_kind(header, KIND, ASSUMPTIONS, path)
    headers.check_forms(header, {"model": MODEL, "dictionary": HASH}, path)
    for key in ("shape", "hashes", "claim"):
        if not isinstance(header[key], dict):
            raise CertificateError(f"'{key}' in {path} must be an object.")
    if set(header["hashes"]) != set(PARTS):
        raise CertificateError(f"'hashes' in {path} must be of {', '.join(PARTS)}, and no others.")
    statements = header["claim"].get("statements")
    listed = isinstance(statements, list) and 1 <= len(statements) <= MOST_STATEMENTS
    if not listed or not all(map(_is_statement, statements)) or len(header["claim"]) != 1:
        raise CertificateError(
            f"'claim' in {path} must list 1 to {MOST_STATEMENTS} statements with exactly the keys "
            f"{sorted(STATEMENT)}: whole numbers, and changes of the loss."
        )
    if len({(s["mlps"], s["keep"]) for s in statements}) != len(statements):
        raise CertificateError(f"{path} makes a statement twice.")
    return header


def _is_statement(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != STATEMENT:
        return False
    whole = all(type(value[key]) is int and 0 <= value[key] < 2**53 for key in ("keep", "kept"))
    changes = (value["loss_change"], value["token_change"])
    return whole and value["mlps"] in (1, 2) and type(value["mlps"]) is int and all(
        is_number(change) and change >= 0 for change in changes
    )  # fmt: skip


def _shape(value: Mapping[str, Any], path: Path) -> ModelShape:
    names = {each.name for each in fields(ModelShape)}
    lists = value.get("activations"), value.get("gated")
    maps = value.get("epsilons"), value.get("centred")
    right = (
        set(value) == names
        and value["mlps"] in (1, 2)
        and type(value["mlps"]) is int
        and all(isinstance(each, list) and len(each) == value["mlps"] for each in lists)
        and all(each in ACTIVATIONS for each in value["activations"])
        and all(type(each) is bool for each in (*value["gated"], value["rotary"]))
        and all(isinstance(each, dict) for each in maps)
        and all(type(each) is bool for each in value["centred"].values())
        and all(type(e) is float and 1e-30 < e < 1 for e in value["epsilons"].values())
        and type(value["scale"]) is float
        and 1e-9 <= abs(value["scale"]) <= 1e9
        and (value["window"] is None or (type(value["window"]) is int and value["window"] > 0))
    )
    if right:
        shape = ModelShape(**{**value, "activations": tuple(value["activations"]),
                              "gated": tuple(value["gated"])})  # fmt: skip
        if set(shape.epsilons) == set(shape.centred) == set(shape.norms):
            return shape
    raise CertificateError(f"'shape' in {path} describes no end of a model that is known.")
