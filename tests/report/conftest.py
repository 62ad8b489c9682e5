from pathlib import Path

import pytest

from gap_jax.report import page, results
from tests.report import sample


@pytest.fixture(scope="session")
def results_path(tmp_path_factory) -> Path:
    """A sample's `results.json`, its pictures beside it. Not to be changed."""
    return sample.write(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def sampled(results_path) -> results.Results:
    return results.load(results_path)


@pytest.fixture(scope="session")
def report(results_path, tmp_path_factory) -> Path:
    """The folder of the sample's report."""
    return page.write(results_path, tmp_path_factory.mktemp("report")).parent
