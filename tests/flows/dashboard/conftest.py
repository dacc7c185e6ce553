"""Workspaces for the pages, and visitors to them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser import Pages
from scored import MODEL, make_three, make_two_models

from nelbo.data import read_table
from nelbo.flows.workspace.layout import Workspace


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """See `make_three`; read only."""
    return make_three(tmp_path_factory.mktemp("scored") / "[work] space")


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """See `make_two_models`; read only."""
    return make_two_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def own(two_models: Workspace, tmp_path: Path) -> Workspace:
    """A copy of `two_models`, to write to."""
    return Workspace(Path(shutil.copytree(str(two_models.root), tmp_path / "own")))


@pytest.fixture
def own_three(three: Workspace, tmp_path: Path) -> Workspace:
    """A copy of `three`, to write to."""
    return Workspace(Path(shutil.copytree(str(three.root), tmp_path / "three")))


@pytest.fixture(scope="session")
def pages(three: Workspace) -> Pages:
    return Pages(three)


@pytest.fixture(scope="session")
def looks(two_models: Workspace) -> Pages:
    return Pages(two_models)


@pytest.fixture(scope="session")
def scores(two_models: Workspace) -> pd.DataFrame:
    """The batch ``shift``, the most anomalous first."""
    found = read_table(two_models.scores(MODEL, "shift")).to_pandas()
    return found.sort_values("anomaly_score", ascending=False)
