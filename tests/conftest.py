import os
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test asks the network
# Before jax is imported: networks this small take longer to compile than to run. Without the fusion emitters,
# XLA compiles them in half the time; they run as fast.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"
)
# All tests and the processes that they start share their compiled programs, in this run and the next.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import diffusers
import jax
import pytest
import torch
import transformers

import gap_jax
from tests.torch_references.folders import torch_clip, torch_pipeline

torch.set_num_threads(1)  # its threads wait for each other at every step, longer than networks this small run
for library in (diffusers, transformers):
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


LONG = ("experiments", "test_distributed", "test_cub", "test_kill", "test_readme")


def pytest_collection_modifyitems(items):
    """Begin with the tests that take longest, so that no worker is left with one at the end."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


@pytest.fixture
def one_process(monkeypatch):
    """For what commands do: JAX is in use already, and only before can a cluster be joined."""
    monkeypatch.setattr("gap_jax.parallel.initialize", lambda: None)
    monkeypatch.setattr("gap_jax.parallel.use_all_cores", lambda: None)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """`models(kind)`, made once: the torch pipeline, its folder, and that folder's `Pipeline` and params."""
    made = {}

    def make(kind: str) -> SimpleNamespace:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "model"
            theirs = torch_pipeline(kind, tmp_path_factory.mktemp("tokenizer"))
            theirs.save_pretrained(folder)
            pipe, params = gap_jax.load_pipeline(folder)
            made[kind] = SimpleNamespace(torch=theirs, folder=folder, pipe=pipe, params=params)
        return made[kind]

    return make


@pytest.fixture
def sd15(models):
    return models("sd15")


@pytest.fixture
def sd21(models):
    return models("sd21")


@pytest.fixture
def inpaint(models):
    return models("inpaint")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A small CLIP: the torch model, its folder, and that folder's `Clip` and parameters."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    theirs = torch_clip(folder)
    ours, params = gap_jax.load_clip(folder)
    return SimpleNamespace(torch=theirs, folder=folder, clip=ours, params=params)


@pytest.fixture
def no_compilation(models, clip):
    """Fails a test that compiles anything, but for what its models need to be made."""
    models("sd15"), models("inpaint")
    jax.random.split(jax.random.key(0), 3)
    durations = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            durations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not durations
