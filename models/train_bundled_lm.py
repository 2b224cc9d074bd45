"""Makes the bundled language model: train -> export -> sample -> card.

    python -m models.train_bundled_lm --corpus stories.txt --output runs/bundled_lm

`--corpus` is a text file with a line `<|endoftext|>` between stories, or the name of a data set
with a column `text` on the Hugging Face Hub (default `roneneldan/TinyStories`; the model in the
package was trained on a part of it, 13,476 stories). `--output` receives the checkpoint
(`state.safetensors`, every 250 steps), the tokenizer, `log.txt`, the shards of the corpus, and
in `bundled/` the finished folder; `--bundle src/crossproof/lm/bundled` puts that straight into
the package.

1. train: the tokenizer, then the model; goes on from the last checkpoint.
2. export: config, float16 weights and tokenizer in the Hugging Face format.
3. sample: the corpus, from the exported weights; finished shards are kept.
4. card: held-out losses and samples, as `README.md`.

A stage whose result is already there, for the same weights and settings, is skipped; so stop the
script whenever you like and run it again. Training takes about an hour and a half on two cores,
sampling about five minutes. `--help` lists every option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from models.bundled_lm.card import has_card, write_card
from models.bundled_lm.export import export, is_exported, load_export, trained_steps
from models.bundled_lm.sample import SampleConfig, is_sampled, sample_corpus
from models.bundled_lm.train import BundledModelConfig, train


@dataclass(frozen=True)
class BundledModelOptions:
    """Trains the bundled TinyStories model and makes everything that ships with it."""

    corpus: str = "roneneldan/TinyStories"
    """Text file with `<|endoftext|>` lines between stories, or a data set on the Hub."""
    output: Path = Path("runs/bundled_lm")
    """Working folder: checkpoint, tokenizer, log, shards."""
    bundle: Path | None = None
    """Where the finished model goes (default: `bundled` in the working folder)."""
    train: BundledModelConfig = field(default_factory=BundledModelConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)


def run(options: BundledModelOptions) -> None:
    """Runs every stage that is not finished."""
    folder = options.output
    bundle = options.bundle or folder / "bundled"
    folder.mkdir(parents=True, exist_ok=True)

    if trained_steps(folder) < options.train.steps:
        train(options.train, options.corpus, folder)
    if trained_steps(folder) > options.train.steps:
        raise ValueError(
            f"{folder} holds a model of {trained_steps(folder)} steps, more than the "
            f"{options.train.steps} asked for: give --train.steps or another --output."
        )
    print(f"train: {trained_steps(folder):,} steps in {folder}", flush=True)

    if not is_exported(folder, bundle):
        export(folder, options.train, bundle)
    print(f"export: {bundle}", flush=True)

    model, target = load_export(bundle), bundle / "corpus.safetensors"
    if not is_sampled(model, options.sample, target):
        sample_corpus(model, options.sample, folder / "shards", target)
        (bundle / "README.md").unlink(missing_ok=True)  # the card describes the corpus
    print(f"sample: {target}", flush=True)

    if not has_card(bundle):
        write_card(options.train, options.sample, options.corpus, folder, bundle)
    print(f"card: {bundle / 'README.md'}", flush=True)


def main() -> None:
    """Reads the command line."""
    try:
        run(tyro.cli(BundledModelOptions))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Interrupted: run the same command again to go on.") from None


if __name__ == "__main__":
    main()
