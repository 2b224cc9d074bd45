"""What is said of a certificate: what it is about, whether it says anything, bounds never rounded
into what was not proved."""

from __future__ import annotations

import io
import itertools
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import certificates as small
import hostile
import hostile_layers
import hostile_text
import numpy as np
import pytest
import statistical as documented
from certificates import NOTHING
from rich.console import Console

from crossproof import cli
from crossproof.commands import verify as command
from crossproof.errors import CrossproofError
from crossproof.proof.certificate.result import VerificationResult, summary_tables
from crossproof.proof.certificate.result_contexts import MeasuredContexts, contexts_table
from crossproof.proof.certificate.result_statistical import statistical_table
from crossproof.proof.certificate.verifier import verify
from crossproof.proof.certificate.verifier.contexts import judge_contexts
from crossproof.proof.certificate.verifier.figures import _mean, _share
from crossproof.proof.certificate.verifier.statistical import judge_statistical
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate, publish


def constant(inputs: np.ndarray, labels: np.ndarray, V: int = 3) -> Draft:
    """A network that gives label 2, whatever it is shown."""
    D = inputs.shape[1]
    network = {"W_in": np.zeros((D, 1)), "b_in": np.zeros(1), "W_out": np.zeros((1, V)),
               "b_out": 100.0 * (np.arange(V) == 2), "skip": np.zeros((D, V))}  # fmt: skip
    return Draft(
        "points",
        network,
        {"inputs": inputs, "labels": labels},
        {"offsets": np.array([0] + [1] * len(inputs)), "indices": np.zeros(1, np.int64),
         "values": np.ones(1)},
        {"atoms": np.ones((1, D)), "bias": np.zeros(D)},
    )  # fmt: skip


def test_a_replaced_network_is_seen_to_be_worthless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant network and one input 500 times: accuracy 1, and nothing is said."""
    monkeypatch.setenv("COLUMNS", "200")
    draft = constant(np.ones((500, 4)), np.full(500, 2))
    draft.domain["inputs"][::2, 0] = 0.0
    draft.domain["inputs"][::4, 0] = -0.0
    verdict = publish(draft, tmp_path / "replaced", {}, NOTHING)
    assert (verdict.accuracy, verdict.right) == (1.0, 500)
    assert (verdict.subject.inputs, verdict.subject.distinct) == (500, 2)
    assert (verdict.majority, verdict.label_entropy) == (1.0, 0.0)
    assert verdict.accuracy_vacuous
    assert verdict.cross_entropy_vacuous
    assert verdict.claim_vacuous
    command.run([str(tmp_path / "replaced")], 0.0)
    printed = capsys.readouterr().out
    for words in ("says nothing", "500 inputs, 2 distinct", "VACUOUS: one label gives 1.0000",
                  "of 500", "Is this your network?", "0.0000 nats"):  # fmt: skip
        assert words in printed
    publish(small.drafts()["points"], tmp_path / "honest", {}, NOTHING)
    command.run([str(tmp_path / "replaced"), str(tmp_path / "honest")], 0.0)
    printed = capsys.readouterr().out
    assert "True, and says nothing (guessing does as well)" in printed
    assert printed.count("says nothing") == 2
    assert printed.count("(any)") == 2


def result(**changes: object) -> VerificationResult:
    verdict = judge(as_certificate(constant(np.ones((4, 2)), np.array([2, 2, 0, 1]))))
    return replace(verdict, **changes)


def test_a_claim_says_nothing_up_to_what_the_likeliest_label_gives() -> None:
    verdict = result()
    assert (verdict.accuracy, verdict.majority, verdict.chance) == (0.5, 0.5, 1 / 3)
    assert verdict.label_entropy == pytest.approx(1.5 * math.log(2))
    assert verdict.accuracy_vacuous
    assert not replace(verdict, accuracy=math.nextafter(0.5, 1)).accuracy_vacuous
    assert replace(verdict, accuracy=0.3, majority=0.2).accuracy_vacuous  # below chance
    assert replace(verdict, cross_entropy=None).cross_entropy_vacuous
    guessing = verdict.label_entropy
    assert guessing is not None
    assert replace(verdict, cross_entropy=guessing).cross_entropy_vacuous
    assert not replace(verdict, cross_entropy=guessing - 1e-9).cross_entropy_vacuous
    continuum = replace(verdict, label_entropy=None)
    assert not replace(continuum, cross_entropy=math.log(3) - 1e-9).cross_entropy_vacuous
    assert replace(continuum, cross_entropy=math.log(3)).cross_entropy_vacuous
    for accuracy, entropy, empty in ((0.5, None, True), (0.6, None, False), (None, 0.1, False),
                                     (None, 9.0, True), (0.5, 0.1, False)):  # fmt: skip
        claim = replace(verdict, claimed_accuracy=accuracy, claimed_cross_entropy=entropy)
        assert claim.claim_vacuous is empty
    assert replace(verdict, claimed_accuracy=0.6, holds=True).verdict == "The claim is verified."
    assert "says nothing" in replace(verdict, claimed_accuracy=0.5, holds=True).verdict
    assert replace(verdict, holds=False).verdict == "The claim is NOT verified."


def test_bounds_are_printed_in_the_direction_in_which_they_hold() -> None:
    subject = replace(result().subject, inputs=30_000)
    bounds = {"accuracy": 0.99996667, "cross_entropy": 1e-7, "majority": 0.12340001}
    verdict = result(right=29_999, subject=subject, **bounds)
    text = repr(verdict)
    for words in ("0.999966", "29,999", "of 30,000", "0.000001", "one label gives 0.1235"):
        assert words in text
    certified, about = summary_tables({"one\x1b[2K": verdict})
    line = certified.to_text()
    for words in ("0.9999 ", "29,999 of 30,000", "0.000001"):
        assert words in line
    assert "0.1235" in about.to_text()
    assert "1.0000" not in line
    assert "\x1b" not in line + about.to_text()
    assert r"one\x1b[2K" in line


def test_no_number_of_a_table_is_broken_over_two_lines() -> None:
    """In 80 columns; 0.99811 above a 9 would read as a bound that is less than the one proved."""
    many = replace(result().subject, inputs=16_777_216, tokens=64, length=4)
    counted = result(
        subject=many, right=16_094_247, kind="attention-latents", cross_entropy=0.12345
    )
    contexts, documents = judge_contexts(hostile_text.model_end(0, 2)), documented.certificate()
    truth = tuple(MeasuredContexts(b.mlps, b.keep, 0.123456, -0.123456) for b in contexts.bounds)
    claims = (replace(b, claimed_loss_change=b.loss_change) for b in contexts.bounds)
    contexts = replace(contexts, bounds=tuple(claims), measured=truth)
    statistical = judge_statistical(documents)
    for table in (
        *summary_tables({"max-of-4-latents": counted}),
        contexts.tables()[0],
        contexts_table({"of-a-language-model": contexts}),
        statistical.tables()[0],
        statistical_table({"of-a-language-model": statistical}),
    ):
        shown = io.StringIO()
        Console(file=shown, width=80).print(table.to_rich())
        words = shown.getvalue().split()
        for row in table.rows:
            cells = " ".join(str(cell) for cell in row.cells).split()
            assert {word for word in cells if word[-1].isdigit() and "." in word} <= {*words}
            assert {word for word in cells if re.fullmatch(r"\d[\d,]*", word)} <= {*words}


def one_of(kind: str) -> Draft:
    if kind in hostile_layers.KINDS:
        return hostile_layers.attention(np.random.default_rng(1), kind)
    made = small.drafts() | {"products": hostile.products(np.random.default_rng(0))}
    return made[kind]


@pytest.mark.parametrize("kind", [*hostile.KINDS, *hostile_layers.KINDS])
def test_every_kind_says_what_it_is_about(kind: str) -> None:
    draft = one_of(kind)
    verdict = judge(as_certificate(draft), pinned=("network",))
    text, p, count = repr(verdict), verdict.classes, verdict.subject.inputs
    layer = f"all {count} sequences of {verdict.subject.length} out of {p} tokens"
    expected = {
        "points": "30 inputs, 30 distinct",
        "pairs": "all 49 pairs modulo 7",
        "boxes": f"10 sets of 2 features in {verdict.subject.boxes} boxes",
        "products": f"all {p * p} pairs of a group of {p} elements",
    }.get(kind, layer)
    for words in (f"kind '{kind}'", expected, verdict.network, verdict.domain, "operations",
                  f"{p}: chance 0.", "always the likeliest one gives", "; entropy ", "acuous",
                  "You asked for the network. Is this your domain?"):  # fmt: skip
        assert words in text.replace("VACUOUS", "vacuous")
    assert VerificationResult.from_json(verdict.to_json()) == verdict
    if kind == "pairs":
        assert (verdict.majority, verdict.label_entropy) == (1 / 7, math.log(7))
    elif kind == "products":
        assert (verdict.majority, verdict.label_entropy) == (1 / p, math.log(p))
    elif kind == "boxes":
        assert verdict.subject.boxes == int((draft.proof["tree"] >= 0).sum())
        assert "entropy of a continuum not known" in text
    elif kind == "points":
        counts = np.bincount(draft.domain["labels"])
        assert verdict.majority == counts.max() / 30
    else:  # the label is the largest of the tokens
        tokens = itertools.product(range(p), repeat=len(draft.network["W_pos"]))
        shares = np.bincount([max(each) for each in tokens]) / (count or 0)
        assert verdict.majority == pytest.approx(shares.max())
        assert verdict.label_entropy == pytest.approx(-(shares * np.log(shares)).sum())


def test_certificates_of_language_models_say_what_they_are_about() -> None:
    documents = judge_statistical(documented.certificate())
    told = (
        "40, with 494 predictions",
        "64: a uniform guess has 4.1589 nats",
        "115,200: the bounds",
    )
    for words in (*told, "label entropy     not known", documents.dictionary, documents.text):
        assert words in repr(documents)
    certificate = hostile_text.model_end(0, 2)
    contexts = judge_contexts(certificate)
    counts = np.unique([1, 3, 3, 1], return_counts=True)[1] / 4  # tokens to be predicted
    assert contexts.label_entropy == pytest.approx(-(counts * np.log(counts)).sum())
    told = ("2 of 4 tokens, with 4 predictions", "5: a guess has 1.6094 nats", "311,584 at most")
    for words in (*told, "keeps 2 predictions at most", "0.6931 nats", *contexts.hashes.values()):
        assert words in repr(contexts)
    assert "1,000,000" not in repr(contexts)  # where no change is claimed none is shown
    lines = contexts_table({"one": replace(contexts, pinned=("model",))}).to_text()
    assert "(yours)" in lines
    assert "0123456789ab (any)" in statistical_table({"two": documents}).to_text()


def test_the_majority_of_a_continuum_is_never_below_the_truth() -> None:
    network, domain = small.sparse(seed=2, noise=0.5)
    verdict = judge(as_certificate(small.drafts()["boxes"]))
    _, labels = small.sparse(noise=0.5)[1].sample(20_000, small.draws(0))
    truth = float(np.bincount(labels.numpy()).max()) / 20_000
    assert truth - 0.01 < verdict.majority < 1
    assert network.n_classes == verdict.classes == len(domain.readout[0])


def test_shares_are_rounded_down_and_means_up() -> None:
    for right, count in ((1, 3), (2, 3), (29_999, 30_000), (390, 500), (3, 7)):
        worst = np.where(np.arange(count) < right, 1.0, -1.0)
        worst[-1] = np.nan if right < count else 1.0
        share = _share(worst)
        assert share * count <= right
        assert share == pytest.approx(right / count, rel=1e-15)
        assert Fraction(share) <= Fraction(right, count)
    assert _share(np.zeros(3)) == 0
    assert _share(np.ones(3)) == 1
    bounds = np.array([0.1] * 10)
    mean = _mean(bounds)
    assert mean is not None
    assert 0.1 < mean < 0.1 * (1 + 1e-8)
    assert _mean(np.array([1.0, np.inf])) is None
    assert _mean(np.array([1.0, np.nan])) is None


def test_limits_and_hashes_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = publish(small.drafts()["points"], tmp_path / "proof", {}, NOTHING)
    folder = str(tmp_path / "proof")
    command.run(["--network", folder], 0.0)
    assert capsys.readouterr().out == verdict.network + "\n"
    command.run([folder, "--network", folder], 0.0)
    assert "You asked for the network." in capsys.readouterr().out
    pins = ["--network", f" {verdict.network.upper()}\n", "--domain", verdict.domain.upper()]
    command.run([folder, *pins], 0.0)
    assert "You asked for the network and the domain." in capsys.readouterr().out
    assert verify(folder, network=verdict.network, domain=verdict.domain).pinned == (
        "network",
        "domain",
    )
    with pytest.raises(CrossproofError, match="bytes of memory"):
        command.run([folder, "--memory", "1e-6"], 0.0)
    with pytest.raises(CrossproofError, match="bytes of memory"):
        command.run(["--network", folder, "--memory", "1e-6"], 0.0)
    with pytest.raises(CrossproofError, match="operations; the limit is 10"):
        command.run([folder, "--operations", "10"], 0.0)
    other = publish(hostile.hostile("points", 0), tmp_path / "other", {}, NOTHING)
    with pytest.raises(CrossproofError, match=f"speaks about the network {verdict.network}"):
        command.run([folder, "--network", str(tmp_path / "other")], 0.0)
    assert other.network != verdict.network


def test_a_closed_output_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(small.drafts()["points"], tmp_path / "proof", {}, NOTHING)

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", Closed())
        with pytest.raises(SystemExit, match="closed before the verdict was written"):
            cli.main(["verify", str(tmp_path / "proof")])
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", None)  # as after `>&-`
        command.run([str(tmp_path / "proof")], 0.0)
