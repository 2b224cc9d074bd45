"""SAEs and transcoders of a real model, trained by SAELens and saved in its format.

    python examples/saelens_case.py harvest --model smollm2 --text stories.txt --out case
    python examples/saelens_case.py train --out case
    crossproof import case/dictionaries --model smollm2 --text stories.txt --out runs/case

One forward pass serves all dictionaries: `harvest` stores activations, `train` hands them to
SAELens's MultiSAETrainer, also while they are still being harvested. What came of it, and the
figures: docs/case-smollm2.md. Needs crossproof and sae-lens (6.54) in one environment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

import crossproof

BATCH = 2048
SAES = ("blocks.7.hook_resid_post", "blocks.14.hook_resid_post")
TRANSCODED = (8, 15)


@dataclass(frozen=True)
class Harvest:
    """Store activations at every hookpoint, in half precision, tokens shuffled.

    Each row of tokens is the beginning of a document. Its first position is left out, and so are
    special tokens: there models keep an attention sink, a hundred times as large as all else.
    """

    model: str
    text: str
    out: Path
    saes: tuple[str, ...] = SAES
    """Hookpoints of SAEs."""
    transcoders: tuple[int, ...] = TRANSCODED
    """Blocks whose MLPs transcoders replace."""
    tokens: int = 1_000_000
    minutes: float = float("inf")
    """Stop after so long, with what there is."""
    context: int = 128

    def run(self) -> None:
        """Writes OUT/activations.npy, and OUT/activations.json, which tells how far it is."""
        model = crossproof.load_model(self.model)
        sequences = crossproof.read_sequences(self.text, model, self.context, rows="documents")
        blocks = [f"blocks.{block}" for block in self.transcoders]
        transcoded = [[f"{at}.mlp.hook_in", f"{at}.hook_mlp_out"] for at in blocks]
        hookpoints = model.hookpoints([*self.saes, *(name for pair in transcoded for name in pair)])
        batches = crossproof.Harvest(model, sequences, hookpoints, BATCH, 16, forward_sequences=8)
        steps = min(self.tokens // BATCH, len(batches))
        self.out.mkdir(parents=True, exist_ok=True)
        shape = steps * BATCH, len(hookpoints), model.d_model
        path = self.out / "activations.npy"
        stored = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        about = {"model": self.model, "context": self.context, "hookpoints": hookpoints.names}
        about |= {"saes": self.saes, "transcoders": transcoded}
        began = time.monotonic()
        for step in range(steps):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            stored[rows] = batches.batch(step).numpy()
            beside = self.out / "activations.json.new"  # `train` may be reading the other
            beside.write_text(json.dumps(about | {"tokens": rows.stop}))
            beside.replace(self.out / "activations.json")
            minutes = (time.monotonic() - began) / 60
            if step % 16 == 0:
                print(f"{rows.stop:,} tokens, {rows.stop / minutes / 60:.0f} a second", flush=True)
            if minutes > self.minutes:
                return


@dataclass(frozen=True)
class Train:
    """Train a BatchTopK dictionary each on the stored activations, all in one pass."""

    out: Path
    n_latents: int = 4096
    k: int = 32
    tokens: int = 1_000_000
    """Those that are to be stored at most; training waits for a harvest that is under way."""
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0

    def run(self) -> None:
        """Writes OUT/dictionaries/NAME, in SAELens's format."""
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.multi_sae_trainer import MultiSAETrainer

        torch.manual_seed(self.seed)
        about = json.loads((self.out / "activations.json").read_text())
        places = {name: (name,) for name in about["saes"]}
        places |= {f"{read} to {write}": (read, write) for read, write in about["transcoders"]}
        first = dict(zip(about["hookpoints"], self._stored(about, 0, 4 * BATCH), strict=True))
        made = {name: self._dictionary(at, first, about) for name, at in places.items()}
        stored = len(np.load(self.out / "activations.npy", mmap_mode="r"))
        steps = min(self.tokens, stored) // self.batch
        config = SAETrainerConfig(
            total_training_samples=steps * self.batch,
            train_batch_size_samples=self.batch,
            lr=self.learning_rate,
            lr_end=self.learning_rate / 10,
            lr_warm_up_steps=steps // 20,
            lr_decay_steps=steps // 4,
            dead_feature_window=100,
        )
        saes = {name: sae for name, (sae, _) in made.items()}
        ratios = {name: ratio for name, (_, ratio) in made.items()}
        stream = self._stream(about, places, ratios, steps)
        trainer = MultiSAETrainer(config, saes, {name: name for name in saes}, stream)
        for name, each in trainer.trainers.items():
            each.activation_scaler.scaling_factor = _scale(first[places[name][0]])
        trainer.fit()
        for name, sae in saes.items():
            _save(sae, ratios[name], self.out / "dictionaries" / name.replace(" ", "-"))

    def _dictionary(
        self, at: tuple[str, ...], first: dict[str, torch.Tensor], about: dict[str, Any]
    ) -> tuple[Any, float]:
        """A new SAE or transcoder, and what its targets are to be multiplied by.

        Means start where the data's are: a few hundred steps would be spent on finding them.
        """
        from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.saes.sae import SAEMetadata

        read, written = first[at[0]], first[at[-1]]
        names = {"hook_name": at[0]} | ({"hook_name_out": at[1]} if len(at) == 2 else {})
        metadata = SAEMetadata(
            model_name=about["model"], model_class_name="AutoModelForCausalLM",
            model_from_pretrained_kwargs={}, context_size=about["context"], **names,
        )  # fmt: skip
        config = BatchTopKTrainingSAEConfig(
            d_in=read.shape[1],
            d_sae=self.n_latents,
            k=self.k,
            apply_b_dec_to_input=len(at) == 1,
            normalize_activations="expected_average_only_in",
            metadata=metadata,
        )
        sae = BatchTopKTrainingSAE(config) if len(at) == 1 else _training_transcoder(config)
        ratio = _scale(written) / _scale(read)
        sae.b_dec.data = written.mean(0) * _scale(written)
        if len(at) == 2:
            sae.b_enc.data = -(read.mean(0) * _scale(read)) @ sae.W_enc.data
        return sae, ratio

    def _stream(
        self,
        about: dict[str, Any],
        places: dict[str, tuple[str, ...]],
        ratios: dict[str, float],
        steps: int,
    ) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, steps * self.batch, self.batch):
            x = dict(zip(about["hookpoints"], self._stored(about, start, self.batch), strict=True))
            yield {
                name: x[at[0]]
                if len(at) == 1
                else torch.cat([x[at[0]], x[at[1]] * ratios[name]], 1)
                for name, at in places.items()
            }

    def _stored(self, about: dict[str, Any], start: int, count: int) -> torch.Tensor:
        """Activations [P, count, D], as soon as they are there."""
        while json.loads((self.out / "activations.json").read_text())["tokens"] < start + count:
            time.sleep(5)
        stored = np.load(self.out / "activations.npy", mmap_mode="r")[start : start + count]
        return torch.from_numpy(stored.astype(np.float32)).transpose(0, 1).contiguous()


def _scale(x: torch.Tensor) -> float:
    """What SAELens's `expected_average_only_in` multiplies activations [M, D] by."""
    return float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())


def _training_transcoder(config: Any) -> Any:
    """SAELens uses transcoders and trains none: its SAE, with a target that is not its input."""
    from sae_lens import BatchTopKTrainingSAE

    class TrainingTranscoder(BatchTopKTrainingSAE):
        def training_forward_pass(self, step_input: Any) -> Any:
            self.read, written = step_input.sae_in.chunk(2, dim=1)
            return super().training_forward_pass(replace(step_input, sae_in=written))

        def encode_with_hidden_pre(self, x: torch.Tensor) -> Any:
            return super().encode_with_hidden_pre(self.read)

    return TrainingTranscoder(config)


def _save(sae: Any, ratio: float, folder: Path) -> None:
    """The dictionary that SAELens itself would load: JumpReLU, of a transcoder its own class."""
    from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    if sae.cfg.apply_b_dec_to_input:
        sae.save_inference_model(folder)
        return
    sae.W_dec.data /= ratio
    sae.b_dec.data /= ratio
    sae.topk_threshold /= ratio  # in units of activation times decoder norm
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    transcoder = JumpReLUTranscoder(
        JumpReLUTranscoderConfig(
            d_in=sae.cfg.d_in,
            d_out=sae.cfg.d_in,
            d_sae=sae.cfg.d_sae,
            apply_b_dec_to_input=False,
            metadata=sae.cfg.metadata,
        )
    )
    transcoder.load_state_dict(state)
    transcoder.save_model(folder)


Harvesting = Annotated[Harvest, tyro.conf.subcommand("harvest")]
Training = Annotated[Train, tyro.conf.subcommand("train")]

if __name__ == "__main__":
    tyro.cli(Harvesting | Training).run()  # type: ignore[arg-type]
