"""The stage on an optimiser whose step is cheap: what it writes, and how it resumes."""

import json
import shutil
from functools import cache, partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from gap_jax import prompts
from gap_jax.stages.optimize import load_trajectory, optimize
from gap_jax.stages.prompt_optimizer import (
    EarlyStop,
    PromptOptimizer,
    PromptWeights,
    initial_state,
    next_state,
)
from tests.metric_lines import read_metrics

N, WIDTH, ROWS, STEPS = 2, 48, 4, 7
TX = optax.adamw(1e-2)


@cache  # one optimiser is compiled once for all tests
def toy_optimizer(early_stop=None):
    """Return an optimiser that draws embeddings to the batch's mean and to noise of the state's key."""

    def step(weights, state, batch):
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), state.embeddings.shape)
        target = jax.lax.pmean(batch["depth"].mean(), "data")
        gradient = state.embeddings - target + noise
        loss = -jnp.square(gradient).mean() * weights.model
        finite = jnp.isfinite(loss)
        state = next_state(state, gradient, finite, loss, optimizer=TX, early_stop=early_stop)
        values = {
            "loss": loss,
            "adversarial": loss,
            "skipped": state.skipped * 1.0,
            "stopped": state.stopped * 1.0,
        }
        return state, values

    def render(weights, embeddings, batch, keys):
        return jnp.clip(batch["depth"] + embeddings.mean(), 0, 1) * jnp.ones(3)

    def spoken(weights, embeddings):
        return embeddings

    init = partial(initial_state, optimizer=TX, early_stop=early_stop)
    threshold = np.float32(early_stop.threshold if early_stop else -np.inf)
    weights = PromptWeights({}, jnp.float32(1), (), None, threshold)
    return PromptOptimizer(init, step, spoken, render, weights, early_stop)


def load(step, rows):
    depth = np.random.default_rng(step).random((ROWS, 8, 8, 1), dtype=np.float32)
    return {"depth": depth[rows]}


def run(model, folder, optimizer=None, load=load, steps=STEPS, config=None, population=3, **options):
    optimizer = optimizer or toy_optimizer()
    optimizer = optimizer._replace(weights=optimizer.weights._replace(pipeline=model.params))
    starts = np.random.default_rng(0).standard_normal((population, N, WIDTH), dtype=np.float32)
    return optimize(
        model.pipe,
        optimizer,
        starts,
        load,
        images_per_step=ROWS,
        steps=steps,
        key=jax.random.key(1),
        folder=folder,
        config=config or {"learning_rate": 1e-2},
        checkpoint_every=2,
        **options,
    )


def test_a_run_writes_metrics_trajectory_prompts_and_pictures(sd15, tmp_path, capsys):
    examples = load(0, slice(2))
    embeddings = run(sd15, tmp_path, examples=examples, picture_every=3)
    assert embeddings.shape == (3, N, WIDTH) and np.isfinite(embeddings).all()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert len(lines[0]["adversarial"]) == 3
    trajectory = load_trajectory(tmp_path)
    assert trajectory["embeddings"].shape == (STEPS, 3, N, WIDTH)
    np.testing.assert_allclose(trajectory["loss"][4], lines[4]["loss"])
    for i in range(3):
        path = tmp_path / "prompts" / str(i) / "learned_embeds.safetensors"
        np.testing.assert_array_equal(prompts.load(path), embeddings[i])
        header = prompts.load_metadata(path)
        assert header["steps"] == STEPS and len(header["nearest_words"]) == N
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["examples-000003.png", "examples-000006.png"]
    assert Image.open(pictures[0]).size == (2 * 8, 3 * 8)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    progress = capsys.readouterr().err
    assert all(part in progress for part in ("optimise", "compiling", "images/s"))
    assert "adversarial" in progress and "compiling" not in progress[progress.index("adversarial") :]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(models, tmp_path_factory):
    """The folder and the embeddings of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return SimpleNamespace(folder=folder, embeddings=run(models("sd15"), folder))


@pytest.mark.parametrize("moment", [1, 4, 5])
def test_a_run_that_dies_goes_on_to_the_same_end(sd15, tmp_path, uninterrupted, moment):
    def dies(step, rows):
        if step == moment:
            raise Killed
        return load(step, rows)

    with pytest.raises(Killed):
        run(sd15, tmp_path / "parts", load=dies)
    np.testing.assert_array_equal(run(sd15, tmp_path / "parts"), uninterrupted.embeddings)
    assert read_metrics(tmp_path / "parts") == read_metrics(uninterrupted.folder)
    chex.assert_trees_all_equal(load_trajectory(tmp_path / "parts"), load_trajectory(uninterrupted.folder))


def test_a_half_written_checkpoint_is_skipped_for_the_one_before(sd15, tmp_path, uninterrupted):
    run(sd15, tmp_path / "parts", steps=4, config={"learning_rate": 1e-2})
    newest = max((tmp_path / "parts" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert newest.name == "4"
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="4"):
        np.testing.assert_array_equal(run(sd15, tmp_path / "parts"), uninterrupted.embeddings)


def test_step_and_pictures_are_compiled_once_over_steps_and_a_resume(sd15, tmp_path):
    chex.clear_trace_counter()
    optimizer = toy_optimizer(EarlyStop(2, -1e6))
    step = chex.assert_max_traces(optimizer.step, n=1)
    render = chex.assert_max_traces(optimizer.render, n=1)
    optimizer = optimizer._replace(step=step, render=render)
    examples = load(0, slice(2))
    run(sd15, tmp_path, optimizer, steps=3, examples=examples, picture_every=1)
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    run(sd15, tmp_path, optimizer)
    assert len(read_metrics(tmp_path)) == STEPS


def test_a_trajectory_that_is_damaged_or_lacks_a_file_is_noticed(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted.folder / "trajectory", tmp_path / "trajectory")
    first, *others = sorted((tmp_path / "trajectory").iterdir())
    whole = bytearray(first.read_bytes())
    first.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(ValueError, match=rf"{first.name} is damaged: delete {tmp_path} and run the same"):
        load_trajectory(tmp_path)
    first.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=rf"{first.name} is damaged"):
        load_trajectory(tmp_path)
    first.unlink()
    with pytest.raises(
        ValueError, match=rf"lacks a file: {others[0].name} must end with step {int(others[0].stem)}"
    ):
        load_trajectory(tmp_path)


def test_a_finished_run_is_not_run_again(sd15, tmp_path):
    whole = run(sd15, tmp_path)

    def never(step, rows):
        raise AssertionError("no step is left")

    np.testing.assert_array_equal(run(sd15, tmp_path, load=never), whole)


def test_ctrl_c_saves_the_current_step_and_says_how_to_continue(sd15, tmp_path, uninterrupted, capsys):
    def interrupted(step, rows):
        if step == 3:
            raise KeyboardInterrupt
        return load(step, rows)

    with pytest.raises(KeyboardInterrupt):
        run(sd15, tmp_path / "parts", load=interrupted)
    assert "step 3 is saved" in capsys.readouterr().out
    np.testing.assert_array_equal(run(sd15, tmp_path / "parts"), uninterrupted.embeddings)


def test_all_prompts_stopped_ends_the_run(sd15, tmp_path):
    run(sd15, tmp_path, optimizer=toy_optimizer(EarlyStop(2, -1e-9)))
    assert len(read_metrics(tmp_path)) == 2


def test_a_run_of_nan_stops_with_the_last_good_state(sd15, tmp_path):
    def breaks(step, rows):
        return (
            {"depth": np.full((ROWS, 8, 8, 1), np.nan, np.float32)[rows]} if step >= 3 else load(step, rows)
        )

    with pytest.raises(
        FloatingPointError, match="2 updates in a row were not finite, of prompts \\[0, 1, 2\\]"
    ):
        run(sd15, tmp_path / "bad", load=breaks, max_skipped=2)
    good = run(sd15, tmp_path / "good", steps=3)
    np.testing.assert_array_equal(load_trajectory(tmp_path / "bad")["embeddings"][4], good)
    recovered = run(sd15, tmp_path / "bad")
    assert np.isfinite(recovered).all()


def test_a_folder_of_another_configuration_is_refused(sd15, tmp_path):
    run(sd15, tmp_path, steps=2)
    with pytest.raises(ValueError, match="learning_rate"):
        run(sd15, tmp_path, steps=2, config={"learning_rate": 2e-2})


def test_a_threshold_of_the_wrong_sign_is_refused(sd15, tmp_path):
    with pytest.raises(ValueError, match=r"threshold 0.2 has the wrong sign.*-0.2"):
        run(sd15, tmp_path, optimizer=toy_optimizer(EarlyStop(2, 0.2)))


def test_a_threshold_that_the_first_step_passes_is_warned_of(sd15, tmp_path):
    with pytest.warns(UserWarning, match=r"threshold -0.001 is passed at the first step, .*, or None"):
        run(sd15, tmp_path, steps=1, optimizer=toy_optimizer(EarlyStop(1, -0.001)))


def test_labels_are_checked_before_each_step(sd15, tmp_path):
    def check(batch):
        raise ValueError("image 0: its mask is all false")

    with pytest.raises(ValueError, match="mask is all false"):
        run(sd15, tmp_path, check=check)


def test_the_configuration_is_on_disk(sd15, tmp_path):
    run(sd15, tmp_path, steps=2)
    assert json.loads((tmp_path / "checkpoints" / "config.json").read_text()) == {"learning_rate": 1e-2}
