"""Fixtures shared by the tests: tiny language models, built once."""

from __future__ import annotations

import os
from pathlib import Path

import profiles
import pytest
import torch
from tiny_models import ARCHITECTURES, save_model
from transformers.utils import logging as transformers_logging

from crossproof.lm import LanguageModel, load_model

profiles.register()


@pytest.fixture(scope="session", autouse=True)
def kept_texts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Texts are tokenised into a folder of the tests, not of the user, by their processes too."""
    os.environ["CROSSPROOF_CACHE"] = str(tmp_path_factory.mktemp("kept"))


def pytest_runtest_setup() -> None:
    torch.manual_seed(0)  # what a test draws from the global generator depends on no other test


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder for each architecture of `models.ARCHITECTURES`."""
    transformers_logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("models")
    return {kind: save_model(folder / kind, build) for kind, build in ARCHITECTURES.items()}


@pytest.fixture(scope="session")
def language_models(model_folders: dict[str, Path]) -> dict[str, LanguageModel]:
    """The same models, loaded; tests must not change their weights."""
    return {kind: load_model(str(folder)) for kind, folder in model_folders.items()}


@pytest.fixture(scope="session")
def gpt_neo(language_models: dict[str, LanguageModel]) -> LanguageModel:
    """The tiny GPT-Neo, for tests that need any model."""
    return language_models["gpt-neo"]


@pytest.fixture(scope="session")
def explored(gpt_neo: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two crosscoders of that model with its explorer store; tests must not change it."""
    from explorers import shared_run

    return shared_run(gpt_neo, tmp_path_factory)
