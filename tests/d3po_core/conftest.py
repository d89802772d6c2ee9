"""The tiny pipeline, built once; its trajectories, sampled once."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import tiny

from d3po_core.policy import Policy
from d3po_core.records import Trajectories

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete tiny pipeline on disk."""
    return tiny.build(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture
def policy(folder: Path) -> Policy:
    """A fresh policy: its adapter as it is made."""
    return tiny.load(folder)


@pytest.fixture(scope="session")
def sampled(folder: Path) -> tuple[Trajectories, dict[str, torch.Tensor]]:
    """Six groups of two images by the fresh policy, and the embeddings."""
    sampler = tiny.load(folder)
    return tiny.sample(sampler, 6), tiny.embeddings(sampler)


@pytest.fixture
def source(sampled: tuple[Trajectories, dict[str, torch.Tensor]]) -> tiny.MemorySource:
    """The six groups as a TrajectorySource."""
    return tiny.MemorySource(*sampled)
