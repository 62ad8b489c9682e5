"""The optimisation step in parts, which compile where the whole takes too long, and what they add up to.

For each micro-batch, an update runs the text encoder, the whole of sampling, and the decoder with the losses,
each forwards and backwards. A chip holds all weights throughout, while the temporary memory of one part is
free before the next part begins.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gap_jax.models.tokenizer import name_placeholders
from gap_jax.planning.compiled import StepCost, compile_step
from gap_jax.planning.networks import Networks, Step, on
from gap_jax.stages.objective import Sample, objective
from gap_jax.stages.optimizers import adamw

_ALL, _PROMPT, _DATA, _BOTH = P(), P("prompt"), P("data"), P("prompt", "data")


class Part(NamedTuple):
    """A part of an optimisation step.

    - `title`: what it computes.
    - `step`: its program, for one micro-batch.
    - `rounds`: the rounds of the loop that nearly all of the program is in; 1 without a loop.
    """

    title: str
    step: Step
    rounds: int

    def cost(self, devices: int) -> StepCost:
        """Compile the part for its `devices` and return its cost, with the traffic of all rounds."""
        cost = compile_step(self.step, devices)
        return cost._replace(traffic=self.rounds * cost.traffic)


def parts(networks: Networks, mesh: Mesh, prompts: int, images: int) -> list[Part]:
    """Return the parts of `Networks.optimize` with the same arguments."""
    prompts = -(-prompts // mesh.shape["prompt"]) * mesh.shape["prompt"]
    images *= mesh.shape["data"]
    rounds = networks.settings.optimizing.denoising_steps
    return [
        Part("text and optimiser", _text(networks, mesh, prompts, images), 1),
        Part("sampling", _sampling(networks, mesh, prompts, images), rounds),
        Part("decoder and losses", _losses(networks, mesh, prompts, images), 1),
    ]


def add_up(costs: Sequence[StepCost], whole: Step) -> StepCost:
    """Return what the optimisation step `whole` needs, from the costs of its parts.

    A chip holds the arguments of the whole, those that it does not read included, and the temporary memory
    of one part at a time.
    """
    times = [whole.images // cost.images for cost in costs]
    return StepCost(
        sum(_bytes(leaf) for leaf in jax.tree.leaves(whole.arguments)),
        max(cost.temporary for cost in costs),
        sum(n * cost.flops for n, cost in zip(times, costs, strict=True)),
        sum(n * cost.traffic for n, cost in zip(times, costs, strict=True)),
        tuple(exchange for cost in costs for exchange in cost.collectives),
        whole.images,
    )


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    """Return the bytes that a device holds of an array on a mesh."""
    assert shape.sharding is not None
    return prod(shape.sharding.shard_shape(shape.shape)) * shape.dtype.itemsize


def _text(networks: Networks, mesh: Mesh, prompts: int, images: int) -> Step:
    """Return the states of prompts from their embeddings, backwards too, and the optimiser's update."""
    pipe, config = networks.pipe, networks.settings.optimizing
    tokens = pipe.tokenize([name_placeholders(config.placeholders)], config.placeholders)
    optimizer = adamw(config.learning_rate, weight_decay=config.weight_decay)

    def update(params, embeddings, state, cotangent):
        context, pull_back = jax.vjp(lambda e: pipe.encode_text(params, tokens, e), embeddings)
        gradient = jax.lax.pmean(pull_back(cotangent)[0], "data")
        updates, state = optimizer.update(gradient, state, embeddings)
        return context, optax.apply_updates(embeddings, updates), state

    width = pipe.text_encoder.hidden_size
    embeddings = jax.ShapeDtypeStruct((prompts, config.placeholders, width), jnp.float32)
    state = jax.eval_shape(jax.vmap(optimizer.init), embeddings)
    inputs = {"text_encoder": networks.params["text_encoder"]}, embeddings, state, _states(networks, prompts)
    return _step(update, mesh, (_ALL, _PROMPT, _PROMPT, _PROMPT), inputs, _PROMPT, prompts * images)


def _sampling(networks: Networks, mesh: Mesh, prompts: int, images: int) -> Step:
    """Return the latents of images from the prompts' states, backwards too."""
    pipe, config = networks.pipe, networks.settings

    def sampling(params, latents, cotangent, control, context, uncond):
        def denoise(context):
            return pipe.denoise(
                params,
                latents,
                jnp.broadcast_to(context, (len(latents), *context.shape[1:])),
                uncond,
                num_steps=config.optimizing.denoising_steps,
                guidance_scale=config.sampling.guidance_scale,
                control=control,
            )

        denoised, pull_back = jax.vjp(denoise, context)
        return denoised, pull_back(cotangent)[0][None]

    params = {name: networks.params[name] for name in ("unet", "controlnet")}
    latents = _latents(networks, prompts, images)
    control = networks.batch(images)["image"]
    inputs = params, latents, latents, control, _states(networks, prompts), _states(networks)
    roles = _ALL, _BOTH, _BOTH, _DATA, _PROMPT, _ALL
    return _step(sampling, mesh, roles, inputs, _BOTH, prompts * images)


def _losses(networks: Networks, mesh: Mesh, prompts: int, images: int) -> Step:
    """Return the losses of the model and of CLIP from the latents, backwards too."""
    evaluate, _ = objective(networks.terms(None))

    def losses(params, clip_params, model_params, latents, batch):
        _, weights = objective(networks.terms(clip_params))

        def loss(latents):
            images = networks.pipe.decode(params, latents)
            prediction = networks.predict(model_params, images)
            return evaluate(weights, Sample(images, jnp.zeros(()), prediction, batch, None), 0)[0]

        return jax.grad(loss)(latents)

    vae = {"vae": networks.params["vae"]}
    latents = _latents(networks, prompts, images)
    inputs = vae, networks.clip_params, networks.model_params, latents, networks.batch(images)
    return _step(losses, mesh, (_ALL, _ALL, _ALL, _BOTH, _DATA), inputs, _BOTH, prompts * images)


def _latents(networks: Networks, prompts: int, images: int) -> jax.ShapeDtypeStruct:
    side = networks.side // networks.pipe.downscale
    shape = prompts, images, side, side, networks.pipe.vae.latent_channels
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _states(networks: Networks, *prompts: int) -> jax.ShapeDtypeStruct:
    text = networks.pipe.text_encoder
    shape = *prompts, 1, text.max_position_embeddings, text.hidden_size
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _step(
    function: Callable[..., Any], mesh: Mesh, roles: Sequence[P], inputs: Sequence[Any], out: P, images: int
) -> Step:
    """Return the step that maps a prompt's `function` over prompts and devices."""
    axes = tuple(0 if "prompt" in role else None for role in roles)
    spread = jax.shard_map(
        jax.vmap(function, axes), mesh=mesh, in_specs=tuple(roles), out_specs=out, check_vma=False
    )
    return Step(spread, tuple(on(mesh, *pair) for pair in zip(roles, inputs, strict=True)), images)
