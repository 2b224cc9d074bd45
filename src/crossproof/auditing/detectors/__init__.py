"""Detectors of anomalous texts: each is fitted on trusted texts alone, and scores any text."""

from crossproof.auditing.detectors.base import Detector, fit_all, score_all
from crossproof.auditing.detectors.catalogue import DETECTORS, detectors

__all__ = ["DETECTORS", "Detector", "detectors", "fit_all", "score_all"]
