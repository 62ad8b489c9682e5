"""Stable Diffusion pipelines and CLIP models, from and to diffusers' and transformers' folders."""

import dataclasses
from pathlib import Path
from typing import Any

from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.diffusion.schedule import Schedule
from gap_jax.models import tokenizer as tokenizers
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.layers import Layer
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.weights.component import (
    DIFFUSERS,
    TRANSFORMERS,
    load,
    network_dtypes,
    read_config,
    read_normalisation,
    replacing,
    write,
    write_json,
)
from gap_jax.weights.configs import build, describe
from gap_jax.weights.repo import Repo, read_json, shipped

TASKS = ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
PIPELINES = tuple(f"StableDiffusion{task}Pipeline" for task in TASKS)
LAYOUT = "0.36.0"  # the diffusers version whose folders we write
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load_pipeline(
    model: str | Path,
    controlnet: str | Path | None = None,
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Pipeline, Params]:
    """A Stable Diffusion 1.x or 2.x pipeline and its parameters.

    - `model`: a folder in diffusers' layout, or a hub id, with `revision`; offline use by
      `local_files_only`. `"small"` and `"wildlife"` come with gap_jax, of the small worlds `data.rooms` and
      `data.wildlife`. A ControlNet that its `model_index.json` names comes along.
    - `controlnet`: a folder or hub id of one, instead. See `add_controlnet` to load it later.
    - `dtype`: of parameters and computation, `float32`, `bfloat16` or `float16`, whatever the files' own.
    - `variant`: `"fp16"` reads `*.fp16.safetensors`.

    Raises FileNotFoundError for what is not there, ValueError for what is there but unreadable, unsupported
    or does not fit its configuration (naming file, key and shapes).
    """
    repo = Repo(shipped(model), revision=revision, local_files_only=local_files_only)
    index = repo.read_json("model_index.json")
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(
            f"{model}/model_index.json is a {kind}, which gap_jax does not have. "
            f"It has Stable Diffusion 1.x and 2.x: {', '.join(PIPELINES)}"
        )
    dtypes = network_dtypes(dtype)
    text_encoder = build(CLIPTextModel, *read_config(repo, "text_encoder"), **dtypes)
    vae = build(AutoencoderKL, *read_config(repo, "vae"), **dtypes)
    unet = build(UNet2DCondition, *read_config(repo, "unet"), **dtypes)
    pipe = Pipeline(text_encoder, vae, unet, None, _schedule(repo), _tokenizer(repo, "tokenizer/"))
    _check_fit(pipe, str(model))
    params = {
        "text_encoder": load(text_encoder, repo, "text_encoder", TRANSFORMERS, variant),
        "vae": load(vae, repo, "vae", DIFFUSERS, variant),
        "unet": load(unet, repo, "unet", DIFFUSERS, variant),
    }
    if controlnet is not None:
        return add_controlnet(pipe, params, controlnet, variant=variant, local_files_only=local_files_only)
    _, kind = index.get("controlnet") or (None, None)
    if kind is None:
        return pipe, params
    if kind != "ControlNetModel":
        raise ValueError(
            f"{model}/model_index.json: controlnet is a {kind}, supported: a single ControlNetModel"
        )
    return _add_controlnet(pipe, params, repo, "controlnet", variant)


def add_controlnet(
    pipe: Pipeline,
    params: Params,
    controlnet: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Pipeline, Params]:
    """The pipeline with a ControlNet (a folder or hub id) added or exchanged, in the UNet's dtype."""
    repo = Repo(controlnet, revision=revision, local_files_only=local_files_only)
    return _add_controlnet(pipe, params, repo, "", variant)


def _add_controlnet(pipe, params, repo, folder, variant):
    dtypes = network_dtypes(pipe.unet.dtype)
    config, source = read_config(repo, folder)
    controlnet = build(ControlNet, config, source, **dtypes)
    for field in ("block_out_channels", "layers_per_block", "cross_attention_dim"):
        ours, theirs = getattr(controlnet, field), getattr(pipe.unet, field)
        if ours != theirs:
            raise ValueError(
                f"{source}: {field} is {ours}, but the UNet's is {theirs}: made for another model"
            )
    pipe = dataclasses.replace(pipe, controlnet=controlnet)
    _check_fit(pipe, source)
    return pipe, params | {"controlnet": load(controlnet, repo, folder, DIFFUSERS, variant)}


def load_clip(
    model: str | Path,
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Clip, Params]:
    """A CLIP model and its parameters: a folder in transformers' layout, a hub id, `"small"`, `"wildlife"`.

    Arguments and errors as `load_pipeline`'s.
    """
    repo = Repo(shipped(model, "clip"), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    if "text_config" not in config or "vision_config" not in config:
        raise ValueError(f"{source} is no CLIPModel's: it lacks text_config and vision_config")
    dtypes = network_dtypes(dtype)
    texts = build(CLIPTextModel, config["text_config"], source, **dtypes)
    vision = build(CLIPVisionModel, config["vision_config"], source, **dtypes)
    network = build(CLIPModel, config, source, text_model=texts, vision_model=vision, **dtypes)
    normalise = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD} | read_normalisation(repo)
    clip = Clip(network, _tokenizer(repo, ""), **normalise)
    return clip, load(network, repo, "", TRANSFORMERS, variant)


def save_pipeline(pipe: Pipeline, params: Params, folder: str | Path) -> None:
    """Write a folder that torch diffusers loads unchanged: safetensors, configurations, tokenizer.

    An existing pipeline is replaced only once the new one is complete; any other folder that is not empty
    is refused with FileExistsError.
    """
    components: dict[str, Layer] = {"text_encoder": pipe.text_encoder, "vae": pipe.vae, "unet": pipe.unet}
    if pipe.controlnet is not None:
        components["controlnet"] = pipe.controlnet
    index = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    with replacing(Path(folder), "model_index.json") as target:
        for name, module in components.items():
            stem, prefix = DIFFUSERS[0], ""
            if name == "text_encoder":
                stem, prefix = TRANSFORMERS[0], "text_model."
            library = "diffusers" if stem in DIFFUSERS else "transformers"
            config = describe(module)
            index[name] = [library, config.get("_class_name", "CLIPTextModel")]
            write(target / name, config, params[name], stem, prefix)
        scheduler = dataclasses.asdict(pipe.schedule) | {"_class_name": "DDIMScheduler", "clip_sample": False}
        write_json(target / "scheduler" / "scheduler_config.json", scheduler)
        pipe.tokenizer.save(target / "tokenizer")
        task = "Inpaint" if pipe.inpaints else ""
        control = "" if pipe.controlnet is None else "ControlNet"
        head = {"_class_name": f"StableDiffusion{control}{task}Pipeline", "_diffusers_version": LAYOUT}
        write_json(target / "model_index.json", head | index)


def save_clip(clip: Clip, params: Params, folder: str | Path) -> None:
    """Write a folder that torch transformers' `CLIPModel` loads unchanged; replaces as `save_pipeline`."""
    with replacing(Path(folder), "config.json") as target:
        write(target, describe(clip.model), params, TRANSFORMERS[0])
        clip.tokenizer.save(target)
        size = clip.model.vision_model.image_size
        normalise = {
            "image_processor_type": "CLIPImageProcessor",
            "image_mean": clip.image_mean,
            "image_std": clip.image_std,
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
        }
        write_json(target / "preprocessor_config.json", normalise)


def _schedule(repo: Repo) -> Schedule:
    name = "scheduler/scheduler_config.json"
    config = repo.read_json(name)
    if "beta_start" not in config and not config.get("trained_betas"):
        raise ValueError(
            f"{repo.model}/{name} has no betas ({config.get('_class_name')}): not Stable Diffusion 1 or 2"
        )
    fields = {field.name for field in dataclasses.fields(Schedule)}
    values = {key: value for key, value in config.items() if key in fields}
    if values.get("trained_betas") is not None:
        values["trained_betas"] = tuple(values["trained_betas"])
    try:
        return Schedule(**values)
    except ValueError as error:
        raise ValueError(f"{repo.model}/{name}: {error}") from error


def _tokenizer(repo: Repo, prefix: str) -> Tokenizer:
    found = {name: repo.find(prefix + name) for name in tokenizers.FILES}
    if found["tokenizer.json"] is None and (found["vocab.json"] is None or found["merges.txt"] is None):
        raise FileNotFoundError(
            f"{repo.model}/{prefix} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt."
            + repo.unreachable
        )
    found = {name: path for name, path in found.items() if path is not None}
    for path in found.values():
        if path.suffix == ".json":
            read_json(path)  # raises now, not with the first text
    return Tokenizer(tuple((name, path.read_bytes()) for name, path in found.items()))


def _check_fit(pipe: Pipeline, source: str) -> None:
    """Raise unless the components' widths fit each other."""
    text_encoder, unet, controlnet = pipe.text_encoder, pipe.unet, pipe.controlnet
    channels = pipe.vae.latent_channels
    if unet.cross_attention_dim != text_encoder.hidden_size:
        raise ValueError(
            f"{source}: the UNet's cross_attention_dim {unet.cross_attention_dim} is not the text encoder's "
            f"hidden_size {text_encoder.hidden_size}"
        )
    if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
        raise ValueError(
            f"{source}: a UNet from {unet.in_channels} to {unet.out_channels} channels does not fit the "
            f"VAE's {channels}: from {channels} (inpainting: {2 * channels + 1}) to {channels} is supported"
        )
    if controlnet is None:
        return
    if controlnet.in_channels != channels:
        raise ValueError(f"{source}: in_channels is {controlnet.in_channels}, the VAE has {channels}")
    if controlnet.downscale != pipe.downscale:
        raise ValueError(
            f"{source}: conditioning_embedding_out_channels scale the condition down by "
            f"{controlnet.downscale}, the VAE by {pipe.downscale}"
        )
