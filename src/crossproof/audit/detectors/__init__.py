"""Detectors of anomalous texts: each is fitted on trusted texts alone, and scores any text."""

from crossproof.audit.detectors.base import Detector, fit_all, score_all
from crossproof.audit.detectors.catalogue import DETECTORS, detectors

__all__ = ["DETECTORS", "Detector", "detectors", "fit_all", "score_all"]
