"""The public API at tiny sizes on any device: each case returns figures for `second_device_run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tiny_models
import torch
from golden_inputs import prompts, save_model, save_saelens
from golden_run import summary
from safetensors.torch import save_file

import crossproof
from crossproof import (
    AuditSettings,
    CrosscoderConfig,
    EvaluationOptions,
    MeasureOptions,
    MLPPenalty,
    Objective,
    Optimisation,
    RunConfig,
    TrainingResult,
)
from crossproof.crosscoder import Crosscoder, Provenance, save_crosscoder
from crossproof.lm import LanguageModel
from crossproof.training import RunFolder
from crossproof.training.checkpoint import Checkpoints
from crossproof.training.run import prepare, resume, start, train_run

EVALUATION = EvaluationOptions(resamples=20)
TOKENS = tiny_models.random_tokens(24, 16)
HELD_OUT = tiny_models.random_tokens(6, 16, seed=1)


@dataclass
class Side:
    """One device, and the folder of what is made there."""

    device: str
    folder: Path
    cpu: Side | None = None
    """The CPU, if this is not it."""
    models: dict[str, LanguageModel] = field(default_factory=dict)

    def model(self, *kinds: str) -> LanguageModel:
        """A tiny model of `tiny_models`; two of them are a pair."""
        name = ",".join(str(self.saved(kind)) for kind in kinds)
        if name not in self.models:
            self.models[name] = crossproof.load_model(name, device=self.device)
        return self.models[name]

    def saved(self, kind: str) -> Path:
        """The model's folder, the same for both sides."""
        folder = self.folder.parent / kind
        return folder if folder.exists() else save_model(folder, getattr(tiny_models, kind))

    def config(self, **changed: Any) -> RunConfig:
        """A few steps of a small dictionary with penalties."""
        config = RunConfig(
            crosscoder=CrosscoderConfig(n_latents=32, k=4),
            objective=Objective(interaction=1.0, keep_largest=10.0, all_latents=5.0),
            steps=4,
            batch_tokens=16,
            buffer_batches=4,
            log_every=2,
            checkpoint_every=2,
            device=self.device,
        )
        return replace(config, **changed)

    @cached_property
    def plain(self) -> TrainingResult:
        """An unpenalised and a penalised crosscoder of plain MLPs."""
        return crossproof.train(self.config(), model=self.model("gpt_neo"), text=TOKENS)

    @cached_property
    def gated(self) -> TrainingResult:
        """The same of gated MLPs."""
        return crossproof.train(self.config(), model=self.model("llama"), text=TOKENS)

    def trained(self, *kinds: str, **changed: Any) -> dict[str, Any]:
        """What becomes of a configuration in training."""
        config = self.config(baseline=False, **changed)
        return figures(crossproof.train(config, model=self.model(*kinds), text=TOKENS))


def figures(result: TrainingResult) -> dict[str, Any]:
    """Metrics and weights of each crosscoder."""
    return {
        name: [[asdict(line) for line in run.metrics], state(result.crosscoder(name))]
        for name, run in result.runs.items()
    }


def state(crosscoder: Crosscoder) -> dict[str, Any]:
    """Sums of a crosscoder's tensors."""
    return {k: numbers(tensor) for k, tensor in crosscoder.state_dict().items()}


def numbers(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor's sums and shape."""
    return summary(tensor.detach().float().cpu().numpy())


def train_plain(side: Side) -> Any:
    return figures(side.plain)


def train_gated(side: Side) -> Any:
    return figures(side.gated)


def train_again(side: Side) -> Any:
    """For mutants: nothing of it is kept."""
    return side.trained("gpt_neo")


def evaluate(side: Side) -> Any:
    crosscoder = side.plain.crosscoder("penalised")
    return crossproof.evaluate(side.model("gpt_neo"), crosscoder, HELD_OUT, EVALUATION).to_json()


def measure(side: Side) -> Any:
    crosscoder, options = side.plain.crosscoder("penalised"), MeasureOptions(pairs=2)
    return crossproof.measure(side.model("gpt_neo"), crosscoder, HELD_OUT, options).to_json()


def gated_figures(side: Side) -> Any:
    model, crosscoder = side.model("llama"), side.gated.crosscoder("penalised")
    return [
        crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION).to_json(),
        crossproof.measure(model, crosscoder, HELD_OUT, MeasureOptions(pairs=2)).to_json(),
        crossproof.attribute(model, crosscoder, HELD_OUT, parts="last-block").to_json(),
    ]


def attribute(side: Side) -> Any:
    crosscoders = {name: side.plain.crosscoder(name) for name in side.plain.runs}
    out = crossproof.attribute(
        side.model("gpt_neo"), crosscoders, HELD_OUT, out=side.folder / "attribution"
    )
    return out.to_json()


def sparsities(side: Side) -> Any:
    """The other rules, and the objectives that need them."""
    terms = Objective(certified=0.1, dominant_share=1.0, rotated=1.0, mlp_in=1.0, l1=0.01)
    rules = {
        "topk": (CrosscoderConfig(32, "topk", 4, groups=2), terms),
        "relu": (CrosscoderConfig(32, "relu"), Objective(l1=0.1, keep_largest=10.0)),
        "jumprelu": (CrosscoderConfig(32, "jumprelu"), Objective(l0=0.1, interaction=1.0)),
    }
    return {
        rule: side.trained("gpt_neo", crosscoder=crosscoder, objective=objective)
        for rule, (crosscoder, objective) in rules.items()
    }


def revival(side: Side) -> Any:
    """Dead latents, clipped gradients, part of the tokens, and no outliers."""
    optimisation = Optimisation(dead_after=16, clip=1e-3, penalty_fraction=0.5)
    return side.trained("gpt_neo", optimisation=optimisation, drop_outliers=3.0)


def transcoders(side: Side) -> Any:
    """Dictionaries of several layouts, in the stream and with skips, trained and evaluated."""
    ins, outs = ("blocks.*.mlp.hook_in",), ("blocks.*.hook_mlp_out",)
    layouts = {
        "stream": side.config(hookpoints=("blocks.*.hook_resid_mid",)),
        "each": side.config(read=ins, write=outs, layout="each", skip=True),
        "causal": side.config(read=ins, write=outs, layout="causal", objective=Objective()),
    }
    made: dict[str, Any] = {}
    for kind in ("gpt_neo", "llama"):
        model = side.model(kind)
        for name, config in layouts.items():
            result = crossproof.train(config, model=model, text=TOKENS)
            crosscoder = result.crosscoder(list(result.runs)[-1])
            evaluated = crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION)
            made[f"{kind} {name}"] = [figures(result), evaluated.to_json()]
            if name == "stream":
                measured = crossproof.measure(model, crosscoder, HELD_OUT, MeasureOptions(pairs=1))
                made[f"{kind} {name}"].append(measured.to_json())
    return made


def mixtures(side: Side) -> Any:
    """A mixture of experts under a dictionary of the stream."""
    model = side.model("mixtral")
    config = side.config(hookpoints=("blocks.*.hook_resid_mid",), objective=Objective())
    result = crossproof.train(config, model=model, text=TOKENS)
    crosscoder = result.crosscoder("unpenalised")
    return [
        figures(result),
        crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION).to_json(),
        crossproof.measure(model, crosscoder, HELD_OUT, MeasureOptions(pairs=1)).to_json(),
    ]


def resumed(side: Side) -> Any:
    """A run that goes on from its checkpoint, and one that starts from its dictionaries."""
    text = side.folder.parent / "text.safetensors"
    save_file({"train": TOKENS, "held_out": HELD_OUT, "validation": HELD_OUT.clone()}, text)
    given = {"model": str(side.saved("gpt_neo")), "text": str(text), "context": 16}
    folder = side.folder / "run"
    run = start(side.config(**given), folder)
    for progress in run.training.steps():
        if progress.step == 2:
            break
    Checkpoints(folder, run.training).save()
    finished = train_run(resume(folder))
    wide = CrosscoderConfig(n_latents=80, k=4)  # with room for both
    warm = side.config(**given, baseline=False, start=(str(folder),), crosscoder=wide)
    started = crossproof.train(warm, side.folder / "warm")
    return [{k: state(c) for k, c in finished.items()}, figures(started)]


def carried(side: Side) -> Any:
    """What the CPU saved, read here, and what was saved here, read by the CPU."""
    here, cpu = side.model("gpt_neo"), (side.cpu or side).model("gpt_neo")
    provenance = Provenance(here.name, here.weights_hash, 0, {})
    save_crosscoder(side.plain.crosscoder("penalised"), side.folder / "saved", provenance)
    read = [(here, (side.cpu or side).folder / "saved"), (cpu, side.folder / "saved")]
    made: list[Any] = [here.weights_hash]
    for model, folder in read:
        (crosscoder,) = RunFolder.open(folder).crosscoders(model).values()
        made.append(crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION).to_json())
    return made


def contexts(side: Side) -> Any:
    """Contexts, a dictionary at work inside the model, other libraries' penalties."""
    model, crosscoder = side.model("gpt_neo"), side.plain.crosscoder("penalised")
    shown = crossproof.top_contexts(model, crosscoder, HELD_OUT, [0, 3, 9], contexts=2)
    with crossproof.spliced(model, crosscoder):
        losses = model.token_losses(HELD_OUT)
    x = model.activations(HELD_OUT, ("blocks.1.mlp.hook_in", "blocks.1.hook_resid_mid"))
    at_input, stream = x.flatten(0, 1).unbind(1)
    rows = crosscoder.W_enc[:, 0].detach()
    latents = (at_input @ rows.T).relu()
    made: list[Any] = [numbers(losses), [asdict(example) for example in shown]]
    for kind in (Objective(keep_largest=1.0), Objective(certified=1.0)):
        penalty = MLPPenalty.of(model, 1, kind)
        made.append(float(penalty.at_input(latents, rows, rows.mean(0), at_input)))
        made.append(float(penalty.in_stream(latents, rows, stream, stream - at_input)))
    return made


def dictionaries(side: Side) -> Any:
    """Dictionaries of another library, taken in and given out."""
    model, made = side.model("llama"), {}
    place, out = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    folders = {name: side.folder / name for name in ("sae", "transcoder")}
    save_saelens(folders["sae"], place, 0)
    save_saelens(folders["transcoder"], place, 1, out)
    for name, folder in folders.items():
        crosscoder, _ = crossproof.import_dictionary(folder, model)
        evaluated = crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION)
        (again,) = crossproof.export(crosscoder, side.folder / f"{name}-out", "saelens", "tiny")
        back, _ = crossproof.import_dictionary(again, model)
        made[name] = [evaluated.to_json(), state(crosscoder), state(back)]
    return made


def pairs(side: Side) -> Any:
    """Two models at once."""
    side.saved("tuned_gpt_neo")
    model = side.model("gpt_neo", "tuned_gpt_neo")
    result = crossproof.train(side.config(), model=model, text=TOKENS)
    crosscoder = result.crosscoder("penalised")
    evaluated = crossproof.evaluate(model, crosscoder, HELD_OUT, EVALUATION)
    return [figures(result), evaluated.to_json()]


def adapters(side: Side) -> Any:
    """An adapter merged into a base."""
    folder = side.folder.parent / "adapter"
    if not folder.exists():
        from test_adapters import save_adapter

        save_adapter(side.saved("gpt_neo"), folder, ["q_proj", "c_fc"])
    model = crossproof.load_model(
        str(side.saved("gpt_neo")), device=side.device, adapter=str(folder)
    )
    return numbers(model.logits(HELD_OUT))


def audit(side: Side) -> Any:
    """An audit that trains its own crosscoder."""
    odd = [f"{text} w55 w56 w57 w58" for text in prompts(2, 2)]
    settings = AuditSettings(n_latents=32, steps=4, shown=1)
    trusted, suspect = prompts(140, 3, length=24), [*prompts(6, 4), *odd]
    return crossproof.audit(side.model("gpt_neo"), trusted, suspect, None, settings).to_json()


def training_steps(side: Side) -> dict[str, Iterator[Any]]:
    """Trainings of several kinds, whose steps can be taken one by one."""
    transcoder = {
        "read": ("blocks.*.mlp.hook_in",),
        "write": ("blocks.*.hook_mlp_out",),
        "layout": "causal",
        "objective": Objective(),
    }
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("gpt_neo", {}),
        "gated": ("llama", {}),
        "stream": ("llama", {"hookpoints": ("blocks.*.hook_resid_mid",)}),
        "causal": ("gpt_neo", transcoder),
    }
    several = dict.fromkeys(("steps", "log_every", "checkpoint_every"), 40)
    several |= {"baseline": False, "buffer_batches": 8}
    return {
        name: prepare(side.config(**several, **changed), side.model(kind), TOKENS).steps()
        for name, (kind, changed) in kinds.items()
    }


CORE = ("train_plain", "train_gated", "evaluate", "measure")
REST = (
    *("gated_figures", "attribute", "sparsities", "revival", "transcoders", "mixtures"),
    *("resumed", "carried", "contexts", "dictionaries", "pairs", "adapters", "audit"),
)
