"""Detectors of anomalous texts: each is fitted on trusted texts alone, and scores any text."""

from crossproof.auditing.config import DETECTORS
from crossproof.auditing.detectors.catalogue import Detector, detectors, fit_all, score_all

__all__ = ["DETECTORS", "Detector", "detectors", "fit_all", "score_all"]
