"""The sampling loop in torch, on networks and schedulers of diffusers: the reference of the tests."""

import torch


def torch_denoise(
    pipe,
    latents,
    context,
    uncond,
    *,
    num_steps,
    guidance_scale,
    strength=1.0,
    eta=0.0,
    noises=None,
    control=None,
    keep=None,
    scheduler=None,
):
    """Denoise as `Pipeline.denoise` does, on NCHW tensors, with the noise of each step given, `noises[i]`.

    `guidance_scale`: a number, or a tuple of one for each step. `keep`: `(mask, source, noise)` floats, 1 =
    keep; inputs of a 9-channel UNet.
    """
    scheduler = scheduler or pipe.scheduler
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps[num_steps - min(int(num_steps * strength), num_steps) :]
    is_ddim = hasattr(scheduler, "_get_variance")
    if not is_ddim:
        scheduler.set_begin_index(num_steps - len(timesteps))
    states = torch.cat([uncond, context])
    for i, timestep in enumerate(timesteps):
        doubled = torch.cat([latents] * 2)
        residuals = {}
        if control is not None:
            down, mid = pipe.controlnet(
                doubled, timestep, states, torch.cat([control] * 2), return_dict=False
            )
            residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
        if pipe.unet.config.in_channels == 9:
            mask, source, _ = keep
            doubled = torch.cat([doubled, torch.cat([1 - mask] * 2), torch.cat([source] * 2)], 1)
        negative, positive = pipe.unet(doubled, timestep, states, **residuals).sample.chunk(2)
        scale = guidance_scale[i] if isinstance(guidance_scale, tuple) else guidance_scale
        output = negative + scale * (positive - negative)
        extra = dict(eta=eta, variance_noise=noises[i] if eta > 0 else None) if is_ddim else {}
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
        if keep is not None and pipe.unet.config.in_channels == 4:
            mask, source, noise = keep
            if i + 1 < len(timesteps):
                source = scheduler.add_noise(source, noise, timesteps[i + 1 : i + 2])
            latents = mask * source + (1 - mask) * latents
    return latents
