"""The configuration of a run and the recipes that ship with the package.

Imports nothing that takes time: the command line needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from crossproof.activations.config import RowKind
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.extras import option_name
from crossproof.training.objective import Objective, is_setting
from crossproof.training.typed import read_specs, typed

Precision = Literal["float32", "float64", "bfloat16", "float16"]
LayoutKind = Literal["joint", "causal", "each"]
LOOKED_AT = 864
"""Held-out sequences of the bundled text that were looked at while recipes were made."""


RENAMED = {"penalty_share": "penalty_fraction", "revive_lift": "revive_bias_rate"}
"""Settings of the optimisation as older runs spelled them, and what they are called now."""


@dataclass(frozen=True)
class Optimisation:
    """How a crosscoder is optimised."""

    lr: float = 1e-3
    """Adam's learning rate."""
    beta1: float = 0.9
    """Adam's memory of the gradient."""
    beta2: float = 0.99
    """Adam's memory of its square."""
    clip: float = 1.0
    """Largest gradient norm (of the loss divided by the number of scaled dimensions P·D)."""
    warmup: float = 0.05
    """Fraction of the steps over which the learning rate rises."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which it falls to zero."""
    penalty_warmup: float = 0.2
    """Fraction of the steps over which penalties rise to their strength."""
    penalty_delay: float = 0.0
    """Fraction of the steps before that, without penalties: a warm start from the unpenalised
    crosscoder."""
    text_delay: float = 0.8
    """Fraction of the steps before terms on predictions, which cost most of a step: at the end of a
    training they gain as much as all along."""
    penalty_fraction: float = 1.0
    """Fraction of each batch's tokens on which terms about MLPs are computed: an unbiased
    estimate at that fraction of their cost."""
    dead_after: int = 0
    """Tokens without activation after which a latent counts as dead; 0: 312 times the H / k tokens
    that a latent waits on average, and 20,000 at least."""
    revive_k: int = 16
    """Dead latents a token that are asked to explain the residual."""
    revive_weight: float = 1 / 32
    """Weight of that request."""
    revive_bias_rate: float = 0.05
    """How much the bias of a dead latent rises every step, as a fraction of the mean activation:
    its pre-activation grows until it is active somewhere and can learn from the loss itself."""
    bf16: bool = False
    """Encode in bfloat16 (not faster on CPUs without native support); on CUDA devices the step's
    other float32 products are in TF32. Sums and weights are float32 always."""


@dataclass(frozen=True)
class RunConfig:
    """A training run: an unpenalised and a penalised crosscoder on the same batches."""

    model: str = "bundled"
    """`bundled`, a local Hugging Face folder, or a Hub id; BASE+ADAPTER merges an adapter, and
    MODEL,MODEL trains on two models at once (model diffing)."""
    text: str = "bundled"
    """`bundled`, a file (.txt, .jsonl, .json, .csv, .parquet, .arrow, .npy, .safetensors), or
    hf:NAME for a data set of the Hub or a folder, with ,config= ,split= ,column= behind it."""
    activations: str = ""
    """A folder of `crossproof harvest` to train from, instead of running the model on the text:
    model, text and positions are then those that it was harvested with."""
    penalise: str = "next"
    """MLPs that the objective is about: next (those at whose inputs the crosscoder decodes or, if
    there are none, the first behind each hookpoint), all that read it, or blocks, such as 3,4."""
    hookpoints: tuple[str, ...] = ()
    """Hookpoint names or globs in TransformerLens spelling, read and written; none: the standard
    set, or nothing beside --read and --write."""
    read: tuple[str, ...] = ()
    """Hookpoints that are only read (a transcoder's input), names or globs."""
    write: tuple[str, ...] = ()
    """Hookpoints that are only written (a transcoder's output)."""
    layout: LayoutKind = "joint"
    """joint: every latent reads and writes all places. causal: every latent reads one place and
    writes those there and later (a weakly causal crosscoder or a cross-layer transcoder). each: a
    dictionary for every place, or for every place that is read with one that is written."""
    skip: bool = False
    """An affine skip beside the latents, from what is read to what is written."""
    start: Annotated[tuple[str, ...], option_name("from")] = ()
    """Run folders whose dictionaries to start from: their latents at their own places."""
    specs: str = ""
    """Several dictionaries in one pass: a JSON object, or a file that holds one, of names and the
    settings that each has otherwise (places, layout, skip, from, penalise, n_latents, k, the
    objective's strengths, ...)."""
    context: int = 256
    """Tokens a sequence."""
    rows: RowKind = "packed"
    """A sequence is cut from documents packed end to end, or is the beginning of a document."""
    skip_first: int = 1
    """Positions at the start of every sequence that never count, at least 1: models keep their
    attention sink there."""
    drop_outliers: float = 0.0
    """Leave out positions whose norm exceeds this multiple of a hookpoint's median norm, in
    training and evaluation; 0: none."""
    crosscoder: CrosscoderConfig = field(default_factory=CrosscoderConfig)
    objective: Objective = field(default_factory=Objective)
    """Of the penalised crosscoder; leave empty to train the unpenalised one alone."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    baseline: bool = True
    """Train the unpenalised crosscoder too, with the same seed on the same batches."""
    steps: int = 1000
    """Optimiser steps."""
    batch_tokens: int = 1024
    """Tokens a step."""
    buffer_batches: int = 32
    """Batches that are harvested and shuffled together."""
    buffer_tokens: int = 0
    """Tokens that are, whatever a batch holds: many sequences of a long context; 0: those of the
    buffer's batches."""
    seed: int = 0
    """Fixes data order, initialisation and training."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. Equal bytes need equal thread counts."""
    device: str = "cpu"
    """cpu, or any other device PyTorch knows (docs/guide/gpu.md says what was tried)."""
    dtype: Precision = "float32"
    """In which the language model runs; what is read of it is float32 at least."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    log_every: int = 25
    """Steps between lines of metrics.jsonl."""
    evaluation_sequences: int = 64
    """Held-out sequences the finished crosscoders are evaluated on."""
    evaluation_skip: int | None = None
    """Held-out sequences that are passed over before, as already looked at; by default those of
    the bundled text that recipes were judged on, and none of any other text."""

    def objectives(self) -> dict[str, Objective]:
        """The crosscoders to train, by name."""
        runs = {"unpenalised": Objective()} if self.baseline or not self.penalised else {}
        return runs | ({"penalised": self.objective} if self.penalised else {})

    def members(self) -> dict[str, RunConfig]:
        """A configuration for each dictionary's objective and settings; errors as `read_specs`."""
        specs = read_specs(self.specs) or {"": {}}
        configs = {name: with_settings(self, name, given) for name, given in specs.items()}
        return {
            f"{objective}/{name}" if name else objective: replace(config, objective=terms)
            for objective in ("unpenalised", "penalised")
            for name, config in configs.items()
            if (terms := config.objectives().get(objective)) is not None
        }

    @property
    def skipped(self) -> int:
        """How many held-out sequences are passed over."""
        if self.evaluation_skip is not None:
            return self.evaluation_skip
        return LOOKED_AT if self.text == "bundled" else 0

    @property
    def shuffled_batches(self) -> int:
        """How many batches are harvested and shuffled together."""
        return -(-self.buffer_tokens // self.batch_tokens) or self.buffer_batches

    @property
    def penalised(self) -> bool:
        """Whether the objective has any term beside reconstruction."""
        return bool(self.objective.strengths())


DEMO = RunConfig(
    crosscoder=CrosscoderConfig(n_latents=1024, k=16),
    objective=Objective(keep_largest=200.0, all_latents=50.0, interaction=5.0),
    optimisation=Optimisation(penalty_fraction=0.5, penalty_delay=0.25),
    steps=850,
    batch_tokens=1024,
    evaluation_sequences=48,
)

FULL = replace(
    DEMO,
    crosscoder=CrosscoderConfig(n_latents=4096, k=16),
    steps=1500,
    evaluation_sequences=192,
)

PAPER = replace(FULL, objective=Objective(interaction=100.0))

RECIPES_WIDTH = 13 * 128
"""Numbers that a dictionary writes a token, beside which the recipes' strengths were found."""

RECIPES: dict[str, RunConfig] = {"demo": DEMO, "full": FULL, "paper": PAPER}
"""demo: a few minutes on two cores; full: the published figures; paper: the paper's penalty."""


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values for a config.json, which `config_from_dict` reads; strengths by name."""
    plain = asdict(replace(config, objective=Objective()))
    if not config.activations:  # most runs have none, and older versions know none
        del plain["activations"]
    return plain | {"objective": dict(config.objective)}


def config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The RunConfig that `config_to_dict` turned into `values`; CrossproofError if it is not one.

    Settings that were called otherwise in older versions are known. Of an imported crosscoder,
    which was not trained here, only the text, its rows, the model's dtype and, where its files say
    so, the tokens a sequence are known.
    """
    try:
        if "imported" in values:
            known = {name: values[name] for name in ("text", "rows", "dtype") if name in values}
            if lengths := _contexts(values["imported"]):
                known["context"] = min(lengths)
            return typed(RunConfig, {"text": "", "steps": 0, "batch_tokens": 0} | known)
        optimisation = {RENAMED.get(k, k): v for k, v in values["optimisation"].items()}
        parts: dict[str, Any] = {
            "crosscoder": typed(CrosscoderConfig, values["crosscoder"]),
            "objective": Objective.stored(values["objective"]),
            "optimisation": typed(Optimisation, optimisation),
        }
        for name in PLACES:
            names = values.get(name, ())
            parts[name] = tuple(names) if isinstance(names, list) else names
        return typed(RunConfig, {**values, **parts})
    except (AttributeError, KeyError, TypeError) as error:
        raise CrossproofError(
            f"The run's config.json does not fit this version of crossproof ({error}): train "
            f"again.",
            code="CP-VERSION",
        ) from error


def _contexts(origins: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens a sequence in the trainings of imported dictionaries, where their files say so.

    SAELens writes `context_size`, dictionary_learning its buffer's `ctx_len`.
    """
    lengths = []
    for origin in origins:
        said = origin.get("config", {})
        for part in (said, said.get("metadata"), said.get("buffer")):
            if isinstance(part, Mapping):
                lengths += [part.get("context_size"), part.get("ctx_len")]
    return [n for n in lengths if isinstance(n, int) and not isinstance(n, bool) and n > 1]


PLACES = ("hookpoints", "read", "write", "start")
SPECIFIED = (*PLACES, "layout", "skip", "penalise")
"""What a spec may say, beside the dictionary's size, sparsity and objective."""


def with_settings(config: RunConfig, name: str, given: Mapping[str, Any]) -> RunConfig:
    """The configuration with some settings otherwise, those of the spec called `name`.

    Raises CrossproofError for a setting that dictionaries of one pass must share, or a value that
    is not of its type.
    """
    named = {"start" if key == "from" else key: value for key, value in given.items()}
    size = {key: named.pop(key) for key in vars(config.crosscoder) if key in named}
    terms = {key: named.pop(key) for key in given if is_setting(key)}
    for key in named:
        if key not in SPECIFIED:
            known = ", ".join((*SPECIFIED, *vars(config.crosscoder)))
            raise CrossproofError(
                f"The spec '{name}' sets {key!r}; specs set {known}, and the objective's strengths."
            )
    listed = {key: tuple(v) if isinstance(v, list) else v for key, v in named.items()}
    try:
        crosscoder = typed(CrosscoderConfig, vars(config.crosscoder) | size)
        parts = {"crosscoder": crosscoder, "objective": Objective({**config.objective, **terms})}
        return typed(RunConfig, vars(config) | listed | parts)
    except TypeError as error:
        raise CrossproofError(f"The spec '{name}' does not fit: {error}.") from error
