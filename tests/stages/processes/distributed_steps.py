"""The program of `test_distributed.py`: run a few optimisation steps on a mesh and save the embeddings.

python -m tests.stages.processes.distributed_steps MODEL_FOLDER OUTPUT.npz [PROCESSES PROCESS PORT]
"""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import gap_jax
from gap_jax import parallel
from gap_jax.diffusion.align import Alignment, Sampling, Start, fold_keys
from gap_jax.models.network import Network
from gap_jax.stages.band import Band
from gap_jax.stages.generate import generate, plan
from gap_jax.stages.objective import adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import prompt_optimizer
from gap_jax.tasks import depth
from tests import toy_prompts
from tests.stages import test_optimize
from tests.stages.joined import joined_runs

PLACEHOLDERS, ROWS, STEPS, SIDE = 2, 16, 3, 16
KERNEL = np.random.default_rng(9).standard_normal((3, 1)).astype(np.float32)


def batch(step: int, rows: slice) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    target = rng.random((ROWS, SIDE, SIDE, 1), dtype=np.float32)
    return {"depth": target[rows], "mask": np.ones((ROWS, SIDE, SIDE, 1), bool)[rows]}


def start_from_noise(pipe, params, batch, keys, sampling) -> Start:
    """Start from noise alone: without an alignment, the program compiles fastest."""
    side = SIDE // pipe.downscale
    draw = jax.vmap(lambda key: jax.random.normal(key, (side, side, pipe.vae.latent_channels)))
    return Start(draw(fold_keys(keys, "noise")))


def run(optimizer, mesh: Mesh, populations) -> np.ndarray:
    """Return the embeddings of populations, each given as `(keys, starts)`, after STEPS steps."""
    step = parallel.population_step(optimizer.step, mesh)
    weights = parallel.replicate(mesh, optimizer.weights)
    rows = parallel.local_rows(mesh, ROWS)
    ends = []
    for keys, starts in populations:
        state = parallel.split_prompts(mesh, jax.vmap(optimizer.init)(keys, starts))
        for i in range(STEPS):
            state, _ = step(weights, state, parallel.feed(mesh, ROWS, batch(i, rows)))
        ends.append(parallel.to_host(mesh, state.embeddings)[: len(starts)])
    return np.concatenate(ends)


def make_optimizer(folder: str):
    """Return the pipeline of `folder` and an optimiser of two placeholders on it."""
    pipe, params = gap_jax.load_pipeline(folder)
    pipe = dataclasses.replace(pipe, controlnet=None)
    optimizer = prompt_optimizer(
        pipe,
        params,
        Network(lambda kernel, images: jax.nn.sigmoid(images @ kernel), KERNEL),
        [adversarial(depth.negative_l1)],
        Alignment(start_from_noise),
        adamw(1e-3, eps=1e-5),  # rounding of a gradient near 0 must not decide the update
        placeholders=PLACEHOLDERS,
        negative_prompt=None,
        sampling=Sampling(num_steps=2, eta=1.0),
        accumulation=2,
        axis_name="data",
    )
    return pipe, optimizer


def toy_gradients(mesh: Mesh) -> np.ndarray:
    """Return the gradients of four prompts whose images are one set."""
    toy = toy_prompts.toy_optimizer(axis_name="data", population=toy_prompts.PROMPTS)
    step = parallel.population_step(toy.step, mesh)
    keys = jax.random.split(jax.random.key(0), toy_prompts.PROMPTS)
    states = parallel.split_prompts(mesh, jax.vmap(toy.init)(keys, toy_prompts.STARTS))
    depth = toy_prompts.DEPTH[parallel.local_rows(mesh, toy_prompts.ROWS)]
    fed = parallel.feed(mesh, toy_prompts.ROWS, {"depth": depth})
    after, _ = step(parallel.replicate(mesh, toy.weights), states, fed)
    return toy_prompts.STARTS - parallel.to_host(mesh, after.embeddings)[: toy_prompts.PROMPTS]


def resumed(pipe, params, folder: Path, first: Mesh | None, mesh: Mesh | None) -> np.ndarray:
    """Return the embeddings of three prompts after two steps on the mesh `first` and the rest on `mesh`."""
    model = SimpleNamespace(pipe=pipe, params=params)
    test_optimize.run(model, folder, steps=2, mesh=first)
    return test_optimize.run(model, folder, mesh=mesh)


def banded(folder: Path, images_per_step: int) -> np.ndarray:
    """Return the losses of the images that a difficulty band keeps, in a data set written to `folder`."""

    def step(weights, batch, keys):
        images = jax.vmap(lambda key: jax.random.uniform(key, (4, 4, 3)))(keys)
        return images, {"loss": images.mean((1, 2, 3)) + weights}

    band = Band("loss", 0.2, 0.8, 12)
    generate(
        step,
        jnp.float32(0),
        lambda sources: {"depth": np.ones((len(sources), 4, 4, 1), np.float32)},
        plan(band.most_candidates, [np.arange(5)], 0),
        images_per_step=images_per_step,
        seed=0,
        folder=folder,
        config={},
        prompt_names=("a",),
        band=band,
    )
    lines = (folder / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def main(folder: str, output: str, *cluster: str) -> None:
    if cluster:
        processes, process, port = map(int, cluster)
        parallel.initialize(f"localhost:{port}", processes, process)
    pipe, optimizer = make_optimizer(folder)
    params, work = optimizer.weights.pipeline, Path(output).with_suffix("")
    one_device = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "prompt"))
    rng = np.random.default_rng(0)
    starts = rng.standard_normal((4, PLACEHOLDERS, 48), dtype=np.float32) * 0.03
    keys = jax.random.split(jax.random.key(3), 4)
    first = (keys[:1], starts[:1])
    if cluster:
        results = {
            "two_processes": run(optimizer, parallel.make_mesh(), [first]),
            "set_on_two_processes": toy_gradients(parallel.make_mesh(prompts=8)),
            "stage_on_two_processes": resumed(
                pipe, params, work / "stage", parallel.make_mesh(prompts=8), None
            ),
            "banded_on_two_processes": banded(work / "banded", 16),
            "joined_on_two_processes": joined_runs.run(joined_runs.populations(work / "joined")),
        }
    else:
        separate = [(keys[i : i + 1], starts[i : i + 1]) for i in range(4)]
        results = {
            "start": starts,
            "one_device": run(optimizer, one_device, separate),
            "eight_devices": run(optimizer, parallel.make_mesh(), [first]),
            "population": run(optimizer, parallel.make_mesh(prompts=4), [(keys, starts)]),
            "padded": run(optimizer, parallel.make_mesh(prompts=4), [(keys[:3], starts[:3])]),
            "set": toy_gradients(parallel.make_mesh(prompts=4)),
            "set_padded": toy_gradients(parallel.make_mesh(prompts=8)),
            "stage_on_one_device": resumed(pipe, params, work / "one", one_device, one_device),
            "stage": resumed(pipe, params, work / "stage", one_device, None),
            "banded": banded(work / "banded", 6),
            "apart": np.concatenate(
                [
                    joined_runs.run([population], mesh=one_device)
                    for population in joined_runs.populations(work / "apart")
                ]
            ),
            "joined": joined_runs.run(joined_runs.populations(work / "joined")),
        }
    if jax.process_index() == 0:
        np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
