"""Prompt optimisation whose sampling is cheap: an objective with a set term, for any spreading of images."""

from types import SimpleNamespace
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_jax.diffusion.align import Alignment, Start, fold_keys
from gap_jax.models.network import Network
from gap_jax.stages.objective import SetTerm, adversarial
from gap_jax.stages.prompt_optimizer import PromptOptimizer, prompt_optimizer
from gap_jax.stages.set_terms import soft_chamfer

PROMPTS, ROWS, PLACEHOLDERS, WIDTH, WEIGHT = 4, 4, 2, 3, 3.0


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


TARGETS, KERNEL = vectors(3, 6, seed=2), vectors(3, 6, seed=3)
STARTS = vectors(PROMPTS, PLACEHOLDERS, WIDTH, seed=4)
DEPTH = np.random.default_rng(5).random((ROWS, 4, 4, 1), dtype=np.float32)


class ToyEncoder:
    """A text encoder that compiles fast: the states of a prompt are its embeddings' sum and product."""

    text_encoder = SimpleNamespace(hidden_size=WIDTH, dtype=np.float32)
    vae = unet = SimpleNamespace(dtype=np.float32)
    controlnet = None

    def tokenize(self, texts, placeholders=0):
        return np.zeros((len(texts), 77), int)

    def encode_text(self, params, ids, embeddings):
        return jnp.stack([embeddings.sum(0), embeddings.prod(0)])[None]


def draw_images(pipe, params, context, uncond, batch, keys, alignment, sampling):
    """Stand in for sampling: images that depend on the prompt, the label and the noise of each row."""
    colour = jnp.tanh(context.sum(1))[:, None, None]
    noise = jax.vmap(lambda key: jax.random.normal(key, (4, 4, WIDTH)))(fold_keys(keys, "noise"))
    return jax.nn.sigmoid(3 * colour * batch["depth"] + noise)


def distance_to_targets(_, features):
    return soft_chamfer(features.reshape(-1, features.shape[-1]), TARGETS, 0.1)


def toy_optimizer(
    accumulation=1, axis_name=None, population_axes=("prompt", "population"), population=None
) -> PromptOptimizer:
    """Return an optimiser whose updates are minus the gradient."""
    made = prompt_optimizer(
        ToyEncoder(),
        {},
        Network(lambda _, images: images.mean(-1, keepdims=True), jnp.zeros(1)),
        [
            adversarial(lambda prediction, label: -jnp.abs(prediction - label["depth"]).mean((1, 2, 3))),
            SetTerm(
                "set", lambda kernel, s: s.images.mean((1, 2)) @ kernel, distance_to_targets, KERNEL, WEIGHT
            ),
        ],
        Alignment(lambda *arguments: Start(None)),
        optax.sgd(1.0),
        placeholders=PLACEHOLDERS,
        negative_prompt=None,
        accumulation=accumulation,
        axis_name=axis_name,
        population_axes=population_axes,
        population=population,
    )

    def step(*arguments):
        with patch("gap_jax.stages.prompt_optimizer.generate", draw_images):
            return made.step(*arguments)

    return made._replace(step=step)


def whole_gradient():
    """Return the value of the set term, and the gradient of all prompts' objectives on all images at once."""

    def objectives(embeddings):
        images = []
        for prompt, key in zip(embeddings, jax.random.split(jax.random.key(0), PROMPTS), strict=True):
            step_key = jax.random.fold_in(key, 0)
            keys = jax.vmap(lambda i, key=step_key: jax.random.fold_in(key, i))(jnp.arange(ROWS))
            context = ToyEncoder().encode_text(None, None, prompt)
            images.append(draw_images(None, None, context, None, {"depth": DEPTH}, keys, None, None))
        images = jnp.stack(images)
        error = -jnp.abs(images.mean(-1, keepdims=True) - DEPTH).mean((1, 2, 3, 4))
        distance = distance_to_targets(None, images.mean((2, 3)) @ KERNEL)
        return (error + WEIGHT * distance).sum(), distance

    return jax.jit(jax.value_and_grad(objectives, has_aux=True))(jnp.asarray(STARTS))
