"""Statistical certificates: what the verifier reaches, what it refuses, and what it says."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statistical as made
from safetensors.numpy import load_file, save_file

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import (
    HEADER,
    TENSORS,
    Limits,
    kind_of,
    part_of,
    tensors_hash,
)
from crossproof.proof.certificate.format_statistical import Statement, read_statistical
from crossproof.proof.certificate.result_statistical import (
    Recomputation,
    StatisticalResult,
    statistical_table,
)
from crossproof.proof.certificate.statistical import write_statistical
from crossproof.proof.certificate.verifier import verify
from crossproof.proof.certificate.verifier.confidence import (
    betting,
    binomial,
    empirical_bernstein,
    hoeffding,
)
from crossproof.proof.certificate.verifier.statistical import (
    in_order,
    judge_statistical,
    verify_statistical,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.written(tmp_path_factory.mktemp("statistical") / "certificate")


def edited(
    folder: Path, to: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> Path:
    """A copy with header and tensors changed, and hashes that fit unless the change is theirs."""
    header = json.loads((folder / HEADER).read_text())
    tensors = dict(load_file(folder / TENSORS))
    hashes = header["text"]["sha256"], header["values"]
    change(header, tensors)
    if (header["text"].get("sha256"), header["values"]) == hashes:
        header["text"]["sha256"] = tensors_hash(part_of(tensors, "text"))
        header["values"] = tensors_hash(part_of(tensors, "values"))
    to.mkdir()
    (to / HEADER).write_text(json.dumps(header))
    save_file({k: np.ascontiguousarray(t) for k, t in tensors.items()}, to / TENSORS)
    return to


def test_a_written_certificate_holds_and_every_line_says_statistical(folder: Path) -> None:
    result = verify_statistical(folder)
    assert kind_of(folder) == "statistical"
    assert result.holds
    assert not result.claim_vacuous
    assert result.documents == 40
    for table in [*result.tables(), statistical_table({"a": result, "b": result})]:
        assert "statistical" in table.title.lower()
        for row in table.rows:
            assert row.label.startswith("statistical: ")
    assert "no proof about every input" in result.verdict
    assert "95%" in result.verdict
    assert "is it your model?" in repr(result)


@pytest.mark.parametrize(
    ("delta", "printed"),
    [(0.05, "95%"), (1e-4, "99.99%"), (1.5e-5, "99.998%"), (1e-17, "99.999%"), (0.5, "50%")],
)
def test_confidence_is_printed_rounded_down_and_never_whole(delta: float, printed: str) -> None:
    result = judge_statistical(made.certificate(delta=delta))
    assert f"with confidence {printed}, no proof" in result.tables()[0].title


def test_the_bounds_are_those_of_each_documents_numbers(folder: Path) -> None:
    held, result = in_order(read_statistical(folder)), verify_statistical(folder)
    assert result.level == pytest.approx(0.05 / 6)  # two treatments, three statements each
    by_name = {(b.treatment, b.quantity): b for b in result.bounds}
    for at, name in enumerate(made.NAMES):
        gaps = (held.treated_loss[:, at] - held.loss) / held.tokens
        scaled = (np.clip(gaps, -1, 1) + 1) / 2
        gap = by_name[name, "loss gap"]
        for ours, theirs in ((gap.bound, betting), (gap.bernstein, empirical_bernstein),
                             (gap.hoeffding, hoeffding)):  # fmt: skip
            exact = 2 * theirs(scaled, result.level) - 1
            assert ours is not None
            assert exact - 1e-9 <= ours <= exact + 1e-9
        assert gap.measured == pytest.approx(np.clip(gaps, -1, 1).mean(), abs=1e-12)
        assert gap.clipped == int((np.abs(gaps) > 1).sum())
        shares = held.changed[:, at] / held.tokens
        changed = by_name[name, "argmax changed"]
        assert changed.bound == pytest.approx(betting(shares, result.level), abs=1e-9)
        assert changed.measured == pytest.approx(shares.mean(), rel=1e-12)
        beyond = by_name[name, "gap beyond range"]
        assert beyond.bound == binomial(int((gaps > 1).sum()), 40, result.level)
    assert result.model_loss == pytest.approx((held.loss / held.tokens).mean())
    assert result.tokens == held.tokens.sum()


def test_gaps_beyond_the_range_are_clipped_and_counted() -> None:
    draft = made.draft(60)
    losses = draft.treated_loss.copy()
    losses[:5, 0] = draft.loss[:5] + 1.5 * draft.tokens[:5]
    losses[5:7, 0] = 0.0  # far below: clipped, and not beyond
    result = judge_statistical(replace(draft, treated_loss=losses))
    gap, _, beyond = result.bounds[:3]
    below = ((losses[:, 0] - draft.loss) / draft.tokens < -1).sum()
    assert gap.clipped == 5 + below
    assert below == 2
    assert beyond.measured == 5 / 60
    assert beyond.bound == binomial(5, 60, result.level)
    assert gap.measured < 1


@pytest.mark.parametrize("key", ["loss_gap", "changed", "beyond"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_claim_below_what_the_verifier_reaches_is_not_verified(
    key: str, at: int, folder: Path, tmp_path: Path
) -> None:
    def less(header: dict[str, Any], _: Any) -> None:
        header["claim"]["statements"][at][key] -= 1e-6

    result = verify_statistical(edited(folder, tmp_path / "false", less))
    assert not result.holds
    assert "NOT verified" in result.verdict
    assert "NOT verified" in repr(result)


def test_nobody_can_choose_the_order_of_documents() -> None:
    """Documents sorted by what they cost would be a game that the gambler has seen."""
    draft = made.draft(200)
    order = np.argsort(draft.treated_loss[:, 0] - draft.loss)
    names = ("digests", "tokens", "loss", "treated_loss", "changed")
    sorted_by_gap = replace(draft, **{name: getattr(draft, name)[order] for name in names})
    assert judge_statistical(sorted_by_gap).bounds == judge_statistical(draft).bounds
    gaps = np.concatenate([np.zeros(100), np.ones(100)])
    assert (
        betting(gaps, 1e-3) < 0.2 < 0.5 < betting(np.random.default_rng(0).permutation(gaps), 1e-3)
    )


def test_more_confidence_and_more_treatments_cost_more() -> None:
    draft = made.draft()
    usual = judge_statistical(draft).bounds[0].bound
    assert judge_statistical(replace(draft, delta=0.001)).bounds[0].bound > usual
    alone = replace(
        draft,
        statements=draft.statements[:1],
        treated_loss=draft.treated_loss[:, :1],
        changed=draft.changed[:, :1],
    )
    assert judge_statistical(alone).bounds[0].bound < usual
    assert judge_statistical(alone).level == pytest.approx(0.05 / 3)


def test_a_bound_that_says_nothing_is_called_vacuous() -> None:
    few = made.draft(2)
    result = judge_statistical(replace(few, delta=1e-9))
    assert all(map(result.vacuous, result.bounds))
    assert "VACUOUS" in repr(result)
    many = judge_statistical(made.certificate())
    gap = replace(many.bounds[0], claimed=0.99)
    assert math.log(64) - many.model_loss > 1
    assert not many.vacuous(gap)
    assert replace(many, model_loss=math.log(64) - 0.9).vacuous(gap)


def test_half_a_chance_and_gaps_that_are_all_clipped_say_nothing() -> None:
    result = judge_statistical(made.certificate())
    assert not any(map(result.vacuous, result.bounds))
    even = judge_statistical(made.certificate(delta=0.5))
    assert all(map(even.vacuous, even.bounds))
    assert "says nothing" in even.verdict
    assert "says nothing" in statistical_table({"even": even}).to_text()
    assert "says nothing" not in statistical_table({"usual": result}).to_text()
    narrow = judge_statistical(made.certificate(documents=400, low=0.0, high=0.1))  # half are above
    gap, _, beyond = narrow.bounds[:3]
    assert gap.claimed < 0.1
    assert 0.5 <= beyond.claimed < 1
    assert narrow.vacuous(gap)
    assert not narrow.vacuous(beyond)


def set_header(*path: str | int, value: Any) -> Callable[[Any, Any], None]:
    def change(header: dict[str, Any], _: Any) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def set_tensor(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Any, Any], None]:
    def apply(_: Any, tensors: dict[str, Any]) -> None:
        changed = change(tensors[name].copy())
        tensors[name] = tensors[name] if changed is None else changed

    return apply


def fewer(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    for name in tensors:
        tensors[name] = tensors[name][:-1]


def twice(tensor: np.ndarray) -> None:
    tensor[3] = tensor[8]


def put(at: tuple[int, ...], value: float) -> Callable[[np.ndarray], np.ndarray]:
    def apply(tensor: np.ndarray) -> np.ndarray:
        tensor[at] = value
        return tensor

    return apply


HOSTILE: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "delta 1": (set_header("claim", "delta", value=1), "between 0 and 1"),
    "delta 2.5": (set_header("claim", "delta", value=2.5), "between 0 and 1"),
    "delta 0": (set_header("claim", "delta", value=0), "between 0 and 1"),
    "a delta that vanishes": (set_header("claim", "delta", value=5e-324), "1e-100 at least"),
    "a treatment in other digits": (
        set_header("claim", "statements", 1, "treatment", value="keep-1\u0663"), "it must be"),
    "delta true": (set_header("claim", "delta", value=True), "between 0 and 1"),
    "an empty range": (set_header("claim", "range", value=[1, 1]), "lower first"),
    "a range the wrong way": (set_header("claim", "range", value=[1, -1]), "lower first"),
    "a huge range": (set_header("claim", "range", value=[-1e9, 1]), "lower first"),
    "fewer documents": (fewer, "40 documents"),
    "more claimed": (set_header("claim", "documents", value=41), "41 documents"),
    "one document": (set_header("claim", "documents", value=1), "from 2"),
    "a document twice": (set_tensor("text.digests", lambda t: (twice(t), t)[1]), "occur twice"),
    "NaN": (set_tensor("values.loss", put((0,), math.nan)), "NaN"),
    "infinity": (set_tensor("values.treated_loss", put((0, 0), math.inf)), "NaN"),
    "a negative loss": (set_tensor("values.treated_loss", put((0, 0), -1.0)), "negative"),
    "more changed than there are": (
        set_tensor("values.changed", put((2, 1), 21)), "more tokens than it has"),
    "negatively many": (set_tensor("values.changed", put((2, 1), -1)), "negative"),
    "no tokens": (set_tensor("text.tokens", put((2,), 0)), "from 1"),
    "floating tokens": (
        set_tensor("text.tokens", lambda t: t.astype(np.float64)), "must be integers"),
    "whole losses": (
        set_tensor("values.loss", lambda t: t.astype(np.int64)), "must be floating point"),
    "a foreign tensor": (
        lambda h, t: t.update({"values.more": np.ones(2)}), "may not hold 'values.more'"),
    "a missing tensor": (lambda h, t: t.pop("values.loss"), "must hold 'values.loss'"),
    "a wrong text hash": (set_header("text", "sha256", value="0" * 64), "do not belong together"),
    "a wrong values hash": (set_header("values", value="0" * 64), "do not belong together"),
    "no hash": (set_header("dictionary", value="mine"), "'dictionary'"),
    "a model that is no hash": (set_header("model", value="\x1b[2Jme"), "'model'"),
    "an assumption less": (lambda h, t: h["assumptions"].pop(), "word for word"),
    "an assumption of its own": (
        lambda h, t: h["assumptions"].append("None."), "word for word"),
    "another kind": (set_header("kind", value="points"), "not 'statistical'"),
    "a foreign key": (set_header("proof", value=1), "exactly the keys"),
    "a treatment unknown": (
        set_header("claim", "statements", 0, "treatment", value="a\x1b[31m"), "it must be"),
    "a treatment twice": (
        set_header("claim", "statements", 0, "treatment", value="keep-1"), "twice"),
    "no number": (set_header("claim", "statements", 0, "changed", value="0"), "must be a number"),
    "no statements": (set_header("claim", "statements", value=[]), "must list"),
    "an unfamiliar split": (set_header("text", "split", value="mine"), "must have a split"),
    "a skip that is none": (set_header("text", "skip", value=-1), "whole numbers"),
    "spliced nowhere": (set_header("claim", "spliced", value=[]), "what the treatments are"),
    "kept nowhere": (set_header("claim", "mlps", value=[]), "what the treatments are"),
    "blocks that are none": (set_header("claim", "mlps", value=["x"]), "hookpoints and blocks"),
    "a name of two lines": (
        set_header("claim", "spliced", value=["a\nThe claim is verified."]), "each once"),
    "a name without width": (set_header("claim", "spliced", value=["a\u200b"]), "each once"),
    "no name": (set_header("claim", "spliced", value=[""]), "each once"),
    "an endless name": (set_header("claim", "spliced", value=["a" * 201]), "each once"),
    "a name twice": (set_header("claim", "spliced", value=["a", "a"]), "each once"),
    "a block twice": (set_header("claim", "mlps", value=[1, 1]), "each once"),
    "too many blocks": (set_header("claim", "mlps", value=list(range(1001))), "each once"),
    "another schema": (set_header("schema", value=2), "use the version"),
    "a task that is none": (set_header("task", value=[]), "must be objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_as_the_format_says_is_refused_in_a_sentence(
    name: str, folder: Path, tmp_path: Path
) -> None:
    change, said = HOSTILE[name]
    with pytest.raises(CrossproofError) as refused:
        verify_statistical(edited(folder, tmp_path / "hostile", change))
    assert said in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model", "dictionary", "text"])
def test_the_reader_can_insist_on_what_it_is_about(name: str, folder: Path) -> None:
    result = verify_statistical(folder)
    pinned = verify_statistical(folder, **{name: getattr(result, name)})
    assert pinned.pinned == (name,)
    assert "(yours)" in repr(pinned)
    with pytest.raises(CrossproofError, match="speaks about the " + name):
        verify_statistical(folder, **{name: "0" * 64})


def test_one_function_verifies_every_kind(folder: Path) -> None:
    again = verify(folder, model="0123456789abcdef", dictionary="ab" * 32)
    assert isinstance(again, StatisticalResult)
    assert again.pinned == ("model", "dictionary")
    assert again.bounds == verify_statistical(folder).bounds
    with pytest.raises(CrossproofError, match=r"no network: .* model, dictionary, text"):
        verify(folder, network="0" * 64)
    with pytest.raises(CrossproofError, match="not for ball arithmetic"):
        verify(folder, arb=True)


def test_what_it_needs_is_limited(folder: Path) -> None:
    for limits, option in ((Limits(memory=1000), "memory"), (Limits(operations=9), "operations")):
        with pytest.raises(CrossproofError, match=f"--{option}"):
            verify_statistical(folder, limits=limits)


def test_what_was_computed_again_is_told(folder: Path) -> None:
    result = verify_statistical(folder)
    assert "was not checked" in repr(result)
    again = replace(result, recomputed=Recomputation(16, 2e-7, 0.0))
    assert "16 of 40 documents, drawn afresh" in repr(again)
    assert "17.1% of all false" in repr(again)  # 0.83^16 = 5%


@pytest.mark.parametrize(("documents", "treatments"), [(8000, 1), (1000, 64)])
def test_no_more_memory_is_used_than_was_asked_for(
    documents: int, treatments: int, tmp_path: Path
) -> None:
    few = made.draft(documents)
    columns = np.zeros(treatments, np.int64)
    draft = replace(
        few,
        spliced=(),
        statements=tuple(Statement(f"keep-{m}", 1e30, 1e30, 1e30) for m in range(treatments)),
        treated_loss=few.treated_loss[:, columns],
        changed=few.changed[:, columns],
    )
    write_statistical(tmp_path / "folder", draft)
    asked: list[int] = []

    class Asking(Limits):
        def check(self, memory: int = 0, operations: int = 0) -> None:
            asked.append(memory)

    tracemalloc.start()
    read = read_statistical(tmp_path / "folder", Asking())
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    judge_statistical(read, Asking())
    judging = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reading <= asked[0] + 1_500_000  # JSON of up to 1 MiB, and numbers looked at together
    assert judging <= asked[1] + 200_000
    assert asked[1] == {8000: 2_624_000, 1000: 2_344_000}[documents]  # changes on purpose only
