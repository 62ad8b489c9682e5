"""Reading and writing Stable Diffusion pipelines and CLIP models.

The layouts are those of diffusers and transformers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.attention import Form
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet, ControlNets
from gap_jax.models.layers import Layer, Recompute
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.weights import single_file
from gap_jax.weights.component import (
    DIFFUSERS,
    TRANSFORMERS,
    load_params,
    network_dtypes,
    read_config,
    read_normalisation,
    read_params,
    read_schedule,
    read_tokenizer,
    replace_folder,
    write_component,
    write_json,
)
from gap_jax.weights.configs import build, describe
from gap_jax.weights.lora import Lora, merge_loras
from gap_jax.weights.repo import FILES, Repo, shipped

TASKS = ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
PIPELINES = tuple(f"StableDiffusion{task}Pipeline" for task in TASKS)
LAYOUT = "0.36.0"  # the version of diffusers whose layout is written
# normalisation of images for CLIP (transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LoadParams = Callable[[], Params]  # loads the parameters of a network that was opened


def load_pipeline(
    model: str | Path,
    controlnet: str | Path | Sequence[str | Path] | None = None,
    dtype: Any = "float32",
    *,
    config: str | Path | None = None,
    lora: Sequence[Lora] = (),
    vae: str | Path | None = None,
    attention: Form = "auto",
    recompute: Recompute = "auto",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Pipeline, Params]:
    """Load a Stable Diffusion 1.x or 2.x pipeline and its parameters.

    - `model`: a folder in diffusers' layout, or a hub id. `"small"` and `"wildlife"` come with gap_jax; they
      draw the small worlds of `gap_jax.small_worlds`. A ControlNet that `model_index.json` names is loaded
      too. Or one file, `.safetensors` or `.ckpt`, with the names of the original code, as CompVis,
      AUTOMATIC1111 and Civitai have it.
    - `controlnet`: the folder, file or hub id of a ControlNet to use instead, or several of them to use at
      once. `add_controlnet` loads them later.
    - `config`: for one file, the folder or hub id of a pipeline with the same configurations, schedule and
      tokenizer, of which the file has none. None: the published model of the file's shapes, such as
      `stable-diffusion-v1-5/stable-diffusion-v1-5`.
    - `lora`: LoRAs to add to the weights of the UNet and the text encoder. Each is a file, a folder or a hub
      id, or a pair of one of these and its scale, as in `lora=[("style.safetensors", 0.8)]`.
    - `vae`: the folder or hub id of an autoencoder to use instead, such as `stabilityai/sd-vae-ft-mse`.
    - `dtype`: `float32`, `bfloat16` or `float16`, of parameters and computation, whatever the files hold.
    - `attention`: how long sequences attend: `xla`, `blocks`, `flash`, or `auto`, as it suits the platform;
      `gap_jax.models.attention` explains them.
    - `recompute`: what gradients compute again instead of keeping it in memory: `nothing`; the `blocks` of
      UNet, ControlNet and decoder, and the decoder for one image after the other; or `auto`, which is
      `blocks` for images of 256 × 256 pixels or more.
    - `revision`: a branch, tag or commit on the hub.
    - `variant`: the infix of the weights' file names; `"fp16"` reads `*.fp16.safetensors`.
    - `local_files_only`: use the cache of the hub only, not the network.

    Raises FileNotFoundError for a model, revision or file that is missing, PermissionError for a model that
    asks for a login, ConnectionError if a download fails, and ValueError for a file that is unreadable,
    unsupported or does not fit its configuration.
    """
    pipe, load = open_pipeline(
        model,
        controlnet,
        dtype,
        config=config,
        lora=lora,
        vae=vae,
        attention=attention,
        recompute=recompute,
        revision=revision,
        variant=variant,
        local_files_only=local_files_only,
    )
    return pipe, load()


def open_pipeline(
    model: str | Path,
    controlnet: str | Path | Sequence[str | Path] | None = None,
    dtype: Any = "float32",
    *,
    config: str | Path | None = None,
    lora: Sequence[Lora] = (),
    vae: str | Path | None = None,
    attention: Form = "auto",
    recompute: Recompute = "auto",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Pipeline, LoadParams]:
    """Read the configurations of a pipeline; return the pipeline and a function that loads its parameters.

    Arguments and errors are those of `load_pipeline`. A configuration that does not fit is told here, and
    weights that do not by the function.
    """
    path, tensors, source = Path(model).expanduser(), None, shipped(model)
    if path.is_file() and path.suffix in FILES:
        tensors = single_file.open_file(path)
        source = config or single_file.configuration(tensors, path)
    repo = Repo(source, revision=revision, local_files_only=local_files_only)
    index = repo.read_json("model_index.json")
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(
            f"{source}/model_index.json must be of Stable Diffusion 1.x or 2.x, found a {kind}; supported: "
            f"{', '.join(PIPELINES)}"
        )
    dtypes = network_dtypes(dtype)
    text_encoder = build(CLIPTextModel, *read_config(repo, "text_encoder"), dtypes)
    vae_repo, vae_folder = (
        (repo, "vae") if vae is None else (Repo(vae, local_files_only=local_files_only), "")
    )
    choices = dtypes | {"attention": attention, "recompute": recompute}
    autoencoder = build(AutoencoderKL, *read_config(vae_repo, vae_folder), choices)
    unet = build(UNet2DCondition, *read_config(repo, "unet"), choices)
    pipe = Pipeline(
        text_encoder, autoencoder, unet, None, read_schedule(repo), read_tokenizer(repo, "tokenizer/")
    )
    _check_fit(pipe, str(model))

    def read(module: Layer, repo: Repo, folder: str, stems: tuple[str, ...]) -> dict:
        if tensors is None or folder == "":
            return load_params(module, repo, folder, stems, variant)
        return read_params(module, single_file.component_tensors(module, tensors, path))

    control = None
    if controlnet is not None:
        control = _open_controlnets(pipe, controlnet, None, variant, local_files_only)
    elif tensors is None:
        control = _open_own_controlnets(pipe, repo, index, variant)

    def load() -> Params:
        params = {
            "text_encoder": read(text_encoder, repo, "text_encoder", TRANSFORMERS),
            "vae": read(autoencoder, vae_repo, vae_folder, DIFFUSERS),
            "unet": read(unet, repo, "unet", DIFFUSERS),
        }
        params = merge_loras(params, lora, local_files_only=local_files_only)
        return params if control is None else params | {"controlnet": control[1]()}

    return pipe if control is None else control[0], load


def add_controlnet(
    pipe: Pipeline,
    params: Params,
    controlnet: str | Path | Sequence[str | Path],
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Pipeline, Params]:
    """Load a ControlNet for a pipeline; return the pipeline and parameters with it.

    - `controlnet`: a folder in diffusers' layout, a hub id, or a file, `.safetensors` or `.pth`, with the
      names of the original code or of diffusers. Several of them are used at once. They replace any
      ControlNet that the pipeline has.

    The ControlNet computes as the UNet does: its dtypes, `attention` and `recompute` are the UNet's. Other
    arguments and errors are those of `load_pipeline`.
    """
    pipe, load = _open_controlnets(pipe, controlnet, revision, variant, local_files_only)
    return pipe, params | {"controlnet": load()}


def _open_controlnets(pipe, given, revision, variant, local_files_only) -> tuple[Pipeline, LoadParams]:
    """Return the pipeline with the given ControlNets, and a function that loads their parameters alone."""
    if not isinstance(given, str | Path):
        if not given:
            raise ValueError("controlnet must name a ControlNet or several, found none: leave it out")
        options = revision, variant, local_files_only
        return _together([_open_controlnets(pipe, one, *options) for one in given])
    path = Path(given).expanduser()
    if path.is_file() and path.suffix in FILES:
        module, tensors = single_file.controlnet_from(single_file.open_file(path), path, pipe.unet)
        return _with_controlnet(pipe, module, str(path)), partial(read_params, module, tensors)
    repo = Repo(given, revision=revision, local_files_only=local_files_only)
    return _open_controlnet(pipe, repo, "", variant)


def _open_own_controlnets(pipe, repo, index, variant) -> tuple[Pipeline, LoadParams] | None:
    """Do the same for the ControlNets that a `model_index.json` names; return None if there are none."""
    _, kind = index.get("controlnet") or (None, None)
    if kind is None:
        return None
    if kind not in ("ControlNetModel", "MultiControlNetModel"):
        raise ValueError(
            f"{repo.model}/model_index.json: controlnet must be a ControlNetModel or a MultiControlNetModel, "
            f"found a {kind}: give one with the argument controlnet"
        )
    folders = ["controlnet"]
    while kind == "MultiControlNetModel" and repo.find(f"{_multi(len(folders))}/config.json") is not None:
        folders.append(_multi(len(folders)))
    return _together([_open_controlnet(pipe, repo, folder, variant) for folder in folders])


def _open_controlnet(pipe, repo, folder, variant) -> tuple[Pipeline, LoadParams]:
    config, source = read_config(repo, folder)
    controlnet = build(ControlNet, config, source, network_dtypes(pipe.unet.dtype))
    load = partial(load_params, controlnet, repo, folder, DIFFUSERS, variant)
    return _with_controlnet(pipe, controlnet, source), load


def _multi(number: int) -> str:
    """Return the folder of a ControlNet in diffusers' layout of several; they are counted from 0."""
    return f"controlnet_{number}" if number else "controlnet"


def _together(opened: Sequence[tuple[Pipeline, LoadParams]]) -> tuple[Pipeline, LoadParams]:
    """Return one pipeline with the ControlNets of several, which are otherwise the same."""
    if len(opened) == 1:
        return opened[0]
    pipes, loads = zip(*opened, strict=True)
    pipe = dataclasses.replace(pipes[0], controlnet=ControlNets(tuple(one.controlnet for one in pipes)))
    return pipe, lambda: {f"networks_{i}": load() for i, load in enumerate(loads)}


def _with_controlnet(pipe: Pipeline, controlnet: ControlNet, source: str) -> Pipeline:
    """Return the pipeline with a ControlNet; raise ValueError, naming `source`, if they do not fit."""
    for field in ("block_out_channels", "layers_per_block", "cross_attention_dim"):
        value, expected = getattr(controlnet, field), getattr(pipe.unet, field)
        if value != expected:
            raise ValueError(
                f"{source}: {field} must be the UNet's, {expected}, found {value}: choose a ControlNet made "
                "for this version of Stable Diffusion"
            )
    controlnet = controlnet.clone(attention=pipe.unet.attention, recompute=pipe.unet.recompute)
    pipe = dataclasses.replace(pipe, controlnet=controlnet)
    _check_fit(pipe, source)
    return pipe


def load_clip(
    model: str | Path,
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Clip, Params]:
    """Load a CLIP model and its parameters.

    `model` is a folder in transformers' layout, a hub id (`"openai/clip-vit-large-patch14"`), or `"small"` or
    `"wildlife"`, which come with gap_jax. Other arguments and errors are those of `load_pipeline`.
    """
    clip, load = open_clip(
        model, dtype, revision=revision, variant=variant, local_files_only=local_files_only
    )
    return clip, load()


def open_clip(
    model: str | Path,
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[Clip, LoadParams]:
    """Read the configurations of a CLIP model; return it and a function that loads its parameters.

    Arguments and errors are those of `load_clip`.
    """
    repo = Repo(shipped(model, "clip"), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    if "text_config" not in config or "vision_config" not in config:
        raise ValueError(
            f"{source} must be of a CLIPModel, with text_config and vision_config, found model_type "
            f"{config.get('model_type')!r}: give a whole CLIP model such as openai/clip-vit-large-patch14"
        )
    dtypes = network_dtypes(dtype)
    encoders = {
        "text_model": build(CLIPTextModel, config["text_config"], source, dtypes),
        "vision_model": build(CLIPVisionModel, config["vision_config"], source, dtypes),
    }
    network = build(CLIPModel, config, source, encoders | dtypes)
    normalise: dict[str, Any] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD} | read_normalisation(repo)
    clip = Clip(network, read_tokenizer(repo, ""), **normalise)
    return clip, partial(load_params, network, repo, "", TRANSFORMERS, variant)


def save_pipeline(pipe: Pipeline, params: Params, folder: str | Path) -> None:
    """Write a folder that diffusers loads: safetensors, configurations and tokenizer.

    An existing pipeline is replaced when the new one is complete. Raises FileExistsError for a folder with
    any other content.
    """
    components: dict[str, Layer] = {"text_encoder": pipe.text_encoder, "vae": pipe.vae, "unet": pipe.unet}
    if isinstance(pipe.controlnet, ControlNet):
        components["controlnet"] = pipe.controlnet
    elif pipe.controlnet is not None:
        params = params | {
            _multi(i): params["controlnet"][f"networks_{i}"] for i in range(len(pipe.controlnet.networks))
        }
        components |= {_multi(i): network for i, network in enumerate(pipe.controlnet.networks)}
    index = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    with replace_folder(Path(folder), "model_index.json") as target:
        for name, module in components.items():
            stem, prefix = DIFFUSERS[0], ""
            if name == "text_encoder":
                stem, prefix = TRANSFORMERS[0], "text_model."
            library = "diffusers" if stem in DIFFUSERS else "transformers"
            config = describe(module)
            index[name] = [library, config.get("_class_name", "CLIPTextModel")]
            write_component(target / name, config, params[name], stem, prefix)
        if isinstance(pipe.controlnet, ControlNets):
            index = {name: value for name, value in index.items() if not name.startswith("controlnet_")}
            index["controlnet"] = ["diffusers", "MultiControlNetModel"]
        scheduler = dataclasses.asdict(pipe.schedule) | {"_class_name": "DDIMScheduler", "clip_sample": False}
        write_json(target / "scheduler" / "scheduler_config.json", scheduler)
        pipe.tokenizer.save(target / "tokenizer")
        task = "Inpaint" if pipe.inpaints else ""
        control = "" if pipe.controlnet is None else "ControlNet"
        head = {"_class_name": f"StableDiffusion{control}{task}Pipeline", "_diffusers_version": LAYOUT}
        write_json(target / "model_index.json", head | index)


def save_clip(clip: Clip, params: Params, folder: str | Path) -> None:
    """Write a folder that transformers' `CLIPModel` loads.

    An existing model is replaced, and any other folder refused, as by `save_pipeline`.
    """
    with replace_folder(Path(folder), "config.json") as target:
        write_component(target, describe(clip.model), params, TRANSFORMERS[0])
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


def _check_fit(pipe: Pipeline, source: str) -> None:
    """Raise ValueError unless the sizes of the components fit each other."""
    text_encoder, unet, controlnet = pipe.text_encoder, pipe.unet, pipe.controlnet
    channels = pipe.vae.latent_channels
    if unet.cross_attention_dim != text_encoder.hidden_size:
        raise ValueError(
            f"{source}: the UNet's cross_attention_dim must be the text encoder's hidden_size, "
            f"{text_encoder.hidden_size}, found {unet.cross_attention_dim}: use components of one model"
        )
    if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
        raise ValueError(
            f"{source}: the UNet must go from {channels} channels (inpainting: {2 * channels + 1}) to "
            f"{channels}, as the VAE has {channels}; found {unet.in_channels} to {unet.out_channels}: use "
            "components of one model"
        )
    if not isinstance(controlnet, ControlNet):
        return
    if controlnet.in_channels != channels:
        raise ValueError(
            f"{source}: in_channels must be the VAE's channels, {channels}, found {controlnet.in_channels}: "
            "choose another ControlNet"
        )
    if controlnet.downscale != pipe.downscale:
        raise ValueError(
            f"{source}: conditioning_embedding_out_channels must scale the condition down by "
            f"{pipe.downscale}, as the VAE does images, found {controlnet.downscale}: choose another "
            "ControlNet"
        )
