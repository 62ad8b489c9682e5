"""Prompt optimisation against the paper's step written in torch, with diffusers' classes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from gap_jax import prompts
from gap_jax.diffusion.align import (
    Sampling,
    controlnet_depth,
    fold_keys,
    inpaint,
    latent_mask,
)
from gap_jax.diffusion.conditions import depth_condition
from gap_jax.models.network import Network
from gap_jax.models.torch_modules.module import from_torch
from gap_jax.stages.guidance import image_guidance
from gap_jax.stages.objective import Term, adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import EarlyStop, initial_state, next_state, prompt_optimizer
from gap_jax.tasks import classification, depth
from tests.diffusion.test_denoise import embed_through
from tests.torch_references.folders import nchw, relative_error
from tests.torch_references.sampler import torch_denoise

PLACEHOLDERS, MICRO, ACCUMULATION, STEPS = 3, 2, 2, 10
SIDE = 16
KERNEL = np.random.default_rng(9).standard_normal((3, 3, 3, 1)).astype(np.float32) / 5


def predict_depth(kernel, images):
    out = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.sigmoid(out)


TORCH_DEPTH = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3, padding=1, bias=False), torch.nn.Sigmoid())
TORCH_DEPTH[0].weight.data = torch.from_numpy(KERNEL).permute(3, 2, 0, 1).contiguous()


def batch_of(step, rows=MICRO * ACCUMULATION):
    """Return the batch of a step: originals, depth and masks."""
    rng = np.random.default_rng(step)
    mask = rng.random((rows, SIDE, SIDE, 1)) < 0.9
    keep = np.zeros((rows, SIDE, SIDE, 1), bool)
    keep[:, : SIDE // 2] = True
    return {
        "image": rng.random((rows, SIDE, SIDE, 3), dtype=np.float32),
        "depth": rng.random((rows, SIDE, SIDE, 1), dtype=np.float32),
        "mask": mask,
        "keep": keep,
    }


def optimizer_for(model, terms, alignment=None, sampling=None, learning_rate=2e-3, network=None, **options):
    return prompt_optimizer(
        model.pipe,
        model.params,
        network or Network(predict_depth, KERNEL),
        terms,
        alignment or controlnet_depth(),
        adamw(learning_rate),
        placeholders=PLACEHOLDERS,
        negative_prompt="cartoon",
        sampling=sampling or Sampling(num_steps=2),
        **options,
    )


def start(seed=0):
    return np.random.default_rng(seed).standard_normal((PLACEHOLDERS, 48), dtype=np.float32) * 0.03


def image_keys(state_key, step, rows):
    key = jax.random.fold_in(state_key, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(rows))


def draw(keys, shape):
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, shape))(keys))


class TorchStep:
    """The optimisation in torch, for a given alignment, with the noise that our keys draw."""

    def __init__(self, model, clip, targets, inpaints, sampling):
        self.model, self.clip, self.inpaints, self.sampling = model, clip, inpaints, sampling
        self.target = self.features(nchw(targets)).mean(0)
        ids = torch.from_numpy(np.asarray(model.pipe.tokenize(["cartoon"]))).long()
        self.uncond = model.torch.text_encoder(ids)[0]
        self.ids = torch.from_numpy(model.pipe.tokenize(["<0>,<1>,<2>"], PLACEHOLDERS)).long()

    def features(self, images):
        size = self.clip.clip.model.vision_model.image_size
        pixels = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(x)[:, None, None] for x in (self.clip.clip.image_mean, self.clip.clip.image_std)
        )
        return self.clip.torch.vision_model((pixels - mean) / std).pooler_output

    def loss(self, embeddings, batch, keys):
        model, pipe = self.model, self.model.torch
        rows = len(keys)
        table = pipe.text_encoder.get_input_embeddings().weight
        context = embed_through(pipe.text_encoder, torch.cat([table, embeddings])[self.ids])
        shape = (SIDE // model.pipe.downscale, SIDE // model.pipe.downscale, 4)
        noise = nchw(draw(fold_keys(keys, "noise"), shape))
        arguments, keep = {}, None
        if self.inpaints:
            posterior = pipe.vae.encode(nchw(2 * batch["image"] - 1)).latent_dist
            sampled = posterior.mean + posterior.std * nchw(draw(fold_keys(keys, "encode"), shape))
            source = sampled * pipe.vae.config.scaling_factor
            keep = nchw(latent_mask(batch["keep"], model.pipe.downscale).astype(np.float32)), source, noise
            step_keys = fold_keys(keys, "denoise")
            fold = jax.vmap(jax.random.fold_in, (0, None))
            arguments["noises"] = [
                nchw(draw(fold(step_keys, i), shape)) for i in range(self.sampling.num_steps)
            ]
        if pipe.__class__.__name__.find("ControlNet") > 0:
            arguments["control"] = nchw(depth_condition(batch["depth"], batch["mask"]))
        latents = torch_denoise(
            pipe,
            noise,
            context.expand(rows, -1, -1),
            self.uncond.expand(rows, -1, -1),
            num_steps=self.sampling.num_steps,
            guidance_scale=self.sampling.guidance_scale,
            eta=self.sampling.eta,
            keep=keep,
            **arguments,
        )
        images = (pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        if self.inpaints:
            images = torch.where(nchw(batch["keep"]), nchw(batch["image"]), images)
        error = torch.abs(TORCH_DEPTH(images) - nchw(batch["depth"])) * nchw(batch["mask"])
        guide = 1 - torch.nn.functional.cosine_similarity(self.features(images), self.target[None])
        return -error.mean() + 2.0 * guide.mean()

    def optimise(self, embeddings, key, words=None):
        """Return the embeddings after ten steps of AdamW; with `words` `[m,D]`, those of PEZ."""
        leaf = torch.tensor(embeddings, requires_grad=True)
        optimizer = torch.optim.AdamW([leaf], lr=2e-3, weight_decay=1e-2)
        for step in range(STEPS):
            batch, keys = batch_of(step), image_keys(key, step, MICRO * ACCUMULATION)
            optimizer.zero_grad()
            used = leaf
            if words is not None:
                nearest = torch.cosine_similarity(leaf[:, None], words[None], dim=-1).argmax(1)
                used = words[nearest].detach().requires_grad_()
            for first in range(0, MICRO * ACCUMULATION, MICRO):
                rows = slice(first, first + MICRO)
                micro = {name: array[rows] for name, array in batch.items()}
                (self.loss(used, micro, keys[rows]) / ACCUMULATION).backward()
            leaf.grad = used.grad
            optimizer.step()
        return leaf.detach().numpy()


@pytest.mark.parametrize("inpaints", [False, True], ids=["controlnet", "inpainting-eta-1"])
def test_ten_adamw_steps_equal_torch(models, clip, inpaints):
    """Both terms and accumulation 2: ControlNet with a torch module, or inpainting with noise and pasting.

    On ControlNet, a prompt of real words follows, by the same program.
    """
    model = models("sd15")
    alignment, network = controlnet_depth(), from_torch(TORCH_DEPTH)
    if inpaints:
        model, network = without_controlnet(model), None
        alignment = inpaint(paste=True)
    sampling = Sampling(num_steps=2, guidance_scale=5.0, eta=float(inpaints))
    targets = np.random.default_rng(4).random((3, 40, 40, 3), dtype=np.float32)
    terms = [
        adversarial(depth.negative_l1),
        Term("guidance", *image_guidance(clip.clip, clip.params, targets), weight=2.0),
    ]
    words = None if inpaints else prompts.vocabulary(model.params)
    ours = optimizer_for(
        model, terms, alignment, sampling, network=network, accumulation=ACCUMULATION, words=words
    )
    key, step = jax.random.key(7), compiled_once(ours.step)
    for uses_words in (False,) if inpaints else (False, True):
        state = ours.init(key, start())
        for i in range(STEPS):
            weights = ours.weights._replace(uses_words=np.bool_(uses_words))
            state, metrics = step(weights, state, batch_of(i))
        assert np.isfinite(metrics["loss"])
        spoken = torch.tensor(np.asarray(words)) if uses_words else None
        theirs = TorchStep(model, clip, targets, inpaints, sampling).optimise(start(), key, spoken)
        assert relative_error(state.embeddings, theirs) < 1e-3
        assert relative_error(state.embeddings - start(), theirs - start()) < 1e-2


def without_controlnet(model):
    """Return the same networks as a text-to-image pipeline, ours and torch's."""
    import dataclasses
    from types import SimpleNamespace

    import diffusers

    components = {name: value for name, value in model.torch.components.items() if name != "controlnet"}
    torch_pipe = diffusers.StableDiffusionPipeline(**components, requires_safety_checker=False)
    return SimpleNamespace(
        torch=torch_pipe, pipe=dataclasses.replace(model.pipe, controlnet=None), params=model.params
    )


@pytest.fixture(scope="module")
def short(models):
    """An optimiser of one adversarial term that starts at step 1, with SDEdit, and its compiled step."""
    ours = optimizer_for(
        models("sd15"), [adversarial(depth.negative_l1, start=1)], controlnet_depth(strength=0.5)
    )
    return ours, compiled_once(ours.step)


def compiled_once(step):
    """Return the jitted step, which fails if it is traced a second time."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(step, n=1))


def test_a_term_adds_nothing_before_its_start(short):
    ours, step = short
    state, metrics = step(ours.weights, ours.init(jax.random.key(0), start()), batch_of(0))
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0 and metrics["adversarial"] < 0
    _, metrics = step(ours.weights, state, batch_of(1))
    assert metrics["loss"] < 0 and metrics["gradient_norm"] > 0


def test_optimising_raises_the_models_error(short):
    ours, step = short
    fixed = ours.init(jax.random.key(0), start())._replace(step=jnp.int32(1))
    state, first = step(ours.weights, fixed, batch_of(0))
    for _ in range(15):
        state = state._replace(step=fixed.step)  # the same noise again
        state, metrics = step(ours.weights, state, batch_of(0))
    assert metrics["adversarial"] < first["adversarial"]


def test_a_batch_with_nan_is_skipped_and_counted(short):
    ours, step = short
    state = ours.init(jax.random.key(0), start())._replace(step=jnp.int32(1))
    bad = batch_of(1) | {"depth": np.full((4, SIDE, SIDE, 1), np.nan, np.float32)}
    after, metrics = step(ours.weights, state, bad)
    assert metrics["skipped"] == 1 and after.skipped == 1 and after.step == 2
    np.testing.assert_array_equal(after.embeddings, state.embeddings)


def run_updates(losses, early_stop, finite=None, tx=None):
    """Return the initial state and the states after an update for each loss, with a gradient of ones."""
    tx = tx or adamw(1e-2)
    state = initial_state(jax.random.key(0), jnp.zeros((2, 3)), optimizer=tx, early_stop=early_stop)
    states = [state]
    for i, loss in enumerate(losses):
        is_finite = jnp.bool_(finite is None or finite[i])
        gradient = jnp.where(is_finite, jnp.ones((2, 3)), jnp.nan)
        options = {"optimizer": tx, "early_stop": early_stop}
        states.append(next_state(states[-1], gradient, is_finite, jnp.float32(loss), **options))
    return states


def test_an_update_that_is_not_finite_changes_nothing_but_the_counts():
    states = run_updates([-1.0] * 4, None, finite=[True, False, False, True])
    assert [int(state.skipped) for state in states] == [0, 0, 1, 2, 0]
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4]
    for name in ("embeddings", "opt_state", "losses", "past"):
        jax.tree.map(np.testing.assert_array_equal, getattr(states[3], name), getattr(states[1], name))
    twice = run_updates([-1.0] * 2, None)
    np.testing.assert_array_equal(states[4].embeddings, twice[2].embeddings)


def authors_early_stop(losses, window, threshold, lr=0.1):
    """The embeddings of the authors' rule for gradients of ones: they begin at 0, and each update is -lr."""
    embedding, running, past = 0.0, [], []
    for loss in losses:
        running = [*running, loss][-window:]
        embedding -= lr
        past = [*past, embedding][-window:]
        if len(running) == window and np.mean(running) < threshold:
            return past[0]
    return embedding


@pytest.mark.parametrize("window", [1, 2, 3])
def test_early_stopping_returns_the_embeddings_that_the_authors_rule_returns(window):
    losses, tx = [-0.1, -0.1, -0.3, -0.3, -0.3, -0.9], optax.sgd(0.1)
    states = run_updates(losses, EarlyStop(window, -0.21), tx=tx)
    expected = authors_early_stop(losses, window, -0.21)
    np.testing.assert_allclose(states[6].embeddings, np.full((2, 3), expected), rtol=1e-6)
    stops = {1: 3, 2: 4, 3: 4}[window]  # updates until the mean of the window is below the threshold
    assert [bool(state.stopped) for state in states] == [i >= stops for i in range(7)]
    assert states[6].step == 6


def test_early_stopping_waits_for_a_full_window():
    assert not any(state.stopped for state in run_updates([-9.0, -9.0], EarlyStop(3, -0.2)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(accumulation=0), "accumulation"),
        (dict(early_stop=EarlyStop(0, -0.2)), "window"),
    ],
)
def test_settings_that_do_not_fit_are_refused(models, options, match):
    with pytest.raises(ValueError, match=match):
        optimizer_for(models("sd15"), [adversarial(depth.negative_l1)], **options)


def test_early_stopping_needs_an_adversarial_term(models):
    fidelity = Term("fidelity", lambda params, sample: sample.images.mean())
    why = r"'adversarial', which is missing; found fidelity: add gap_jax.adversarial"
    with pytest.raises(ValueError, match=why):
        optimizer_for(models("sd15"), [fidelity], early_stop=EarlyStop(3, -0.2))


def test_a_batch_that_does_not_divide_is_refused(models):
    ours = optimizer_for(models("sd15"), [adversarial(depth.negative_l1)], accumulation=3)
    why = "images per device must be a multiple of the number of micro-batches, 3; found 4"
    with pytest.raises(ValueError, match=why):
        ours.step(ours.weights, ours.init(jax.random.key(0), start()), batch_of(0))


def test_embeddings_of_another_shape_are_refused(models):
    ours = optimizer_for(models("sd15"), [adversarial(depth.negative_l1)])
    with pytest.raises(ValueError, match=r"embeddings must have shape \[3, 48\], found \[2, 48\]"):
        ours.init(jax.random.key(0), start()[:2])


def test_classification_losses_work_through_inpainting_with_any_optax_optimiser(models):
    model = without_controlnet(models("sd15"))
    ours = prompt_optimizer(
        model.pipe,
        model.params,
        Network(
            lambda kernel, images: predict_depth(kernel, images).mean((1, 2)) * jnp.array([1.0, -1.0]), KERNEL
        ),
        [adversarial(classification.other_class_cross_entropy())],
        inpaint(),
        optax.sgd(1.0, momentum=0.9),
        placeholders=PLACEHOLDERS,
        negative_prompt=None,
        sampling=Sampling(num_steps=1, eta=1.0),
    )
    batch = {name: batch_of(0)[name] for name in ("image", "keep")} | {"label": np.array([0, 1, 1, 0])}
    state, metrics = jax.jit(ours.step)(ours.weights, ours.init(jax.random.key(0), start()), batch)
    assert metrics["gradient_norm"] > 0
    assert relative_error(state.embeddings, start()) > 0


def test_learning_rate_is_scaled_warmed_up_and_decayed():
    def rates(count, **options):
        transformation = adamw(1e-2, weight_decay=0.0, **options)
        state = transformation.init(jnp.zeros(1))
        values = []
        for _ in range(count):
            update, state = transformation.update(jnp.ones(1), state, jnp.zeros(1))
            values.append(-float(update[0]))
        return values

    np.testing.assert_allclose(rates(3, images_per_step=8), [8e-2] * 3, rtol=1e-4)
    np.testing.assert_allclose(rates(4, decay="linear", steps=4), [1e-2, 7.5e-3, 5e-3, 2.5e-3], rtol=1e-4)
    np.testing.assert_allclose(rates(4, warmup_steps=2), [0, 5e-3, 1e-2, 1e-2], rtol=1e-4, atol=1e-9)
    assert rates(5, decay="cosine", steps=4)[4] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="decay"):
        adamw(1e-2, decay="exponential", steps=3)
    with pytest.raises(ValueError, match="steps"):
        adamw(1e-2, decay="linear")
