"""The benchmarks import what exists, and plan the presets' steps; their numbers are for people to read."""

import ast
import importlib
from pathlib import Path

import jax
import pytest

from gap_jax.parallel import make_mesh
from gap_jax.planning.networks import Networks

BENCHMARKS = sorted(Path(__file__).parents[1].glob("benchmarks/*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_everything_that_a_benchmark_imports_exists(path):
    importlib.import_module(f"benchmarks.{path.stem}")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("gap_jax", "tests"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("stage", ["optimize", "generate", "finetune"])
def test_the_memory_plan_has_the_presets_steps(stage):
    networks = Networks("taskonomy-unet", "bfloat16")
    step = getattr(networks, stage)(make_mesh(), 1, 2)
    assert callable(step.function) and step.images >= 2 * jax.device_count()
    assert all(hasattr(leaf, "sharding") for leaf in jax.tree.leaves(step.arguments))
