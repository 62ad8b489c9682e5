from pathlib import Path

import pytest

from gap_jax.report import page, results
from tests.report import sample


@pytest.fixture(scope="session")
def results_path(tmp_path_factory) -> Path:
    """The path of the sample's `results.json`, beside its pictures. Tests must not change them."""
    return sample.write(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def sampled(results_path) -> results.Results:
    return results.load(results_path)


@pytest.fixture(scope="session")
def report(results_path, tmp_path_factory) -> Path:
    """The folder of the sample's report. Tests must not change it."""
    return page.write_page(results_path, tmp_path_factory.mktemp("report")).parent
