"""The networks and the steps of the depth experiment's presets, as shapes on a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gap_jax import parallel
from gap_jax.diffusion.align import Sampling, controlnet_depth, generate
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import Schedule
from gap_jax.experiments.depth.settings import PRESETS
from gap_jax.experiments.depth.task import depth_task
from gap_jax.models.attention import Form, attention
from gap_jax.models.bit import BitConfig
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import Layer, Recompute
from gap_jax.models.network import Network
from gap_jax.models.tokenizer import train_tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.stages.guidance import FeatureStatistics, cosine
from gap_jax.stages.objective import Term, adversarial
from gap_jax.stages.optimizers import adamw, amsgrad
from gap_jax.stages.prompt_optimizer import EarlyStop, prompt_optimizer
from gap_jax.tasks.depth import NEGATIVE_PROMPT
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

PARTS = ("text_encoder", "vae", "unet", "controlnet")
SCHEDULE = Schedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1, set_alpha_to_one=False)
TOKENIZER = train_tokenizer(NEGATIVE_PROMPT.replace(",", " , ").split(), 77)[0]


class Step(NamedTuple):
    """A function, the shapes of its arguments on a mesh, and the number of images that one call computes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    images: int


class Networks:
    """A preset's Stable Diffusion with ControlNet, its CLIP and its depth model, as shapes.

    All presets but `small` have Stable Diffusion 1.5 and CLIP ViT-L/14. `dtype` is their precision. `small`
    is the small world in float32. `attention` and `recompute` are those of `load_pipeline`.
    """

    def __init__(self, preset: str, dtype: str, attention: Form = "auto", recompute: Recompute = "auto"):
        self.settings, world = PRESETS[preset]
        if preset == "small":
            self.pipe, params = load_pipeline("small", attention=attention, recompute=recompute)
            self.clip, clip_params = load_clip("small")
            self.model, model_params = load_depth("small")
            self.params, self.clip_params, self.model_params = jax.eval_shape(
                lambda: (params, clip_params, model_params)
            )
            self.task = depth_task()
        else:
            dtypes: dict[str, Any] = dict.fromkeys(("dtype", "param_dtype"), jnp.dtype(dtype))
            self.pipe, self.clip = _stable_diffusion(dtypes, attention, recompute)
            self.model = _depth_model(world.size, recompute)
            self.params = {part: shapes(getattr(self.pipe, part)) for part in PARTS}
            self.clip_params, self.model_params = shapes(self.clip.model), shapes(self.model)
            self.task = depth_task(world.loss, NEGATIVE_PROMPT)
        self.side = self.settings.sampling.size or self.pipe.vae.sample_size
        self.model_side = getattr(world, "size", self.side)

    def predict(self, params: Any, images: jax.Array) -> jax.Array:
        """Predict depth as the experiment's worlds do."""
        size = (len(images), self.model_side, self.model_side, 3)
        return self.model.apply({"params": params}, jax.image.resize(images, size, "bilinear"))

    def terms(self, clip_params: Any) -> list[Term]:
        """Return the terms that prompts minimise: the model's loss, and CLIP's distance to a target."""

        def distance(params, sample):
            features = self.clip.image_features(params, sample.images)
            return cosine(features, FeatureStatistics(jnp.ones(features.shape[-1]), None))

        return [adversarial(self.task.adversarial), Term("guidance", distance, clip_params)]

    def attention(self, mesh: Mesh, prompts: int, images: int) -> Step:
        """Return the gradient of the UNet's first self-attention, for `images` guided images a device."""
        unet = self.pipe.unet
        tokens = (self.side // self.pipe.downscale) ** 2
        shape = 2 * images * mesh.size, tokens, unet.block_out_channels[0]
        inputs = on(mesh, P(mesh.axis_names), [jax.ShapeDtypeStruct(shape, unet.dtype)] * 3)

        def total(query, key, value):
            out = attention(query, key, value, heads=unet.heads(0), form=unet.attention)
            return out.astype(jnp.float32).sum()

        specs = (P(mesh.axis_names),) * 3
        gradient = jax.shard_map(
            jax.grad(total, (0, 1, 2)), mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False
        )
        return Step(gradient, tuple(inputs), images * mesh.size)

    def optimize(self, mesh: Mesh, prompts: int, images: int) -> Step:
        """Return an optimisation step, with the losses of the model and of CLIP.

        A device computes `images` images of each of its prompts at a time.
        """
        config = self.settings.optimizing
        accumulation = max(config.batch // mesh.shape["data"] // images, 1)

        def optimizer(params, clip_params, model_params):
            return prompt_optimizer(
                self.pipe,
                params,
                Network(self.predict, model_params),
                self.terms(clip_params),
                controlnet_depth(),
                adamw(config.learning_rate, weight_decay=config.weight_decay),
                placeholders=config.placeholders,
                negative_prompt=self.task.negative_prompt,
                sampling=Sampling(config.denoising_steps, self.settings.sampling.guidance_scale),
                accumulation=accumulation,
                early_stop=None if config.threshold is None else EarlyStop(config.window, config.threshold),
                axis_name="data",
                population_axes=parallel.POPULATION_AXES,
            )

        def step(weights, state, batch):
            made = optimizer(*weights)
            return made.step(made.weights, state, batch)

        weights = (self.params, self.clip_params, self.model_params)
        width = self.pipe.text_encoder.hidden_size
        starts = jax.ShapeDtypeStruct((prompts, config.placeholders, width), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), prompts))
        states = jax.eval_shape(lambda w, k, s: jax.vmap(optimizer(*w).init)(k, s), weights, keys, starts)
        count = images * accumulation * mesh.shape["data"]
        arguments = (
            on(mesh, P(), weights),
            on(mesh, P("prompt"), states),
            on(mesh, P("data"), self.batch(count)),
        )
        return Step(parallel.population_step(step, mesh), arguments, count * prompts)

    def generate(self, mesh: Mesh, prompts: int, images: int) -> Step:
        """Return a step that generates `images` images a device and takes the model's loss on them."""
        config = self.settings
        sampling = Sampling(config.generating.denoising_steps, config.sampling.guidance_scale)

        def generation_step(weights, batch, keys):
            params, model_params, context, uncond = weights
            images = generate(self.pipe, params, context, uncond, batch, keys, controlnet_depth(), sampling)
            return images, self.task.loss(self.predict(model_params, images), batch)

        text, count = self.pipe.text_encoder, images * mesh.shape["data"]
        context = jax.ShapeDtypeStruct((1, text.max_position_embeddings, text.hidden_size), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
        weights = on(mesh, P(), (self.params, self.model_params, context, context))
        split = on(mesh, P("data"), (self.batch(count), keys))
        return Step(parallel.image_step(generation_step, mesh), (weights, *split), count)

    def finetune(self, mesh: Mesh, prompts: int, images: int) -> Step:
        """Return a step of fine-tuning the depth model on `images` images a device."""
        adam = amsgrad(self.settings.finetuning.learning_rate)

        def step(params, state, batch):
            def loss(params):
                return self.task.loss(self.predict(params, batch["image"]), batch).mean()

            updates, state = adam.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        state = jax.eval_shape(adam.init, self.model_params)
        count = images * mesh.size
        replicated = on(mesh, P(), (self.model_params, state))
        return Step(step, (*replicated, on(mesh, P(mesh.axis_names), self.batch(count))), count)

    def batch(self, images: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of images with depth."""
        kinds = {"image": (3, jnp.float32), "depth": (1, jnp.float32), "mask": (1, jnp.bool_)}
        return {
            name: jax.ShapeDtypeStruct((images, self.side, self.side, channels), dtype)
            for name, (channels, dtype) in kinds.items()
        }


def shapes(network: Layer) -> Any:
    """Return the shapes of a network's parameters."""
    return jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())["params"]


def _stable_diffusion(dtypes: dict[str, Any], attention: Form, recompute: Recompute) -> tuple[Pipeline, Clip]:
    choices = {**dtypes, "attention": attention, "recompute": recompute}
    text = CLIPTextModel(768, 3072, 12, 12, **dtypes)
    vision = CLIPVisionModel(1024, 4096, 24, 16, patch_size=14, **dtypes)
    pipe = Pipeline(
        text,
        AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **choices),
        UNet2DCondition(cross_attention_dim=768, **choices),
        ControlNet(cross_attention_dim=768, **choices),
        SCHEDULE,
        TOKENIZER,
    )
    return pipe, Clip(CLIPModel(text, vision, 768, **dtypes), TOKENIZER, (0.5,) * 3, (0.5,) * 3)


def _depth_model(size: int, recompute: Recompute) -> DepthUNet | DPT:
    """Return the paper's depth model for images of `size` pixels: XTC's U-Net or Omnidata's DPT-hybrid."""
    hybrid = DPT(neck_hidden_sizes=(256, 512, 768, 768), backbone_config=BitConfig(), recompute=recompute)
    models: dict[int, DepthUNet | DPT] = {256: DepthUNet(), 384: hybrid}
    return models[size]


def on(mesh: Mesh, spec: P, tree: Any) -> Any:
    """Return the shapes of a tree, laid out on a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
