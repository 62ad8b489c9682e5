"""The noise schedule of a `scheduler_config.json`, and its solvers as tables of coefficients.

Every solver here makes the step from a latent `x` (signal level `alpha`, noise level `sigma`) to the next
from the network's estimate of the clean latent `x0` and of the noise `eps`:

    x' = alpha' x0 + direction eps + correction (x0 - previous x0) + noise n,    n ~ N(0, 1)

DDIM (Song et al. 2020, arXiv 2010.02502, eq. 12) is that without a correction; DPM-Solver++(2M) (Lu et al.
2022, arXiv 2211.01095, algorithm 2) is DDIM with eta = 0 plus the correction that makes it second order.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The fields of diffusers' scheduler configurations that define the diffusion; hashable."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    timestep_spacing: str = "leading"
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self):
        for field, known in (
            ("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2")),
            ("timestep_spacing", ("leading", "trailing", "linspace")),
            ("prediction_type", ("epsilon", "v_prediction")),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {known}, found {getattr(self, field)!r}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} values, num_train_timesteps is "
                f"{self.num_train_timesteps}"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "with rescale_betas_zero_snr, prediction_type must be 'v_prediction': at zero signal"
            )

    def alphas_cumprod(self) -> np.ndarray:
        """The share of signal variance left at each training timestep, float64 `[num_train_timesteps]`."""
        steps = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float64)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, steps)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps) ** 2
        else:
            bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
        alphas = np.cumprod(1 - betas)
        if self.rescale_betas_zero_snr:  # Lin et al. 2023, arXiv 2305.08891, algorithm 1
            root = np.sqrt(alphas)
            alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return alphas


class SolverCoefficients(NamedTuple):
    """A solver's coefficients, float32 `[steps]` each; a row of it drives one step of the sampler."""

    timestep: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    next_alpha: np.ndarray
    direction: np.ndarray
    correction: np.ndarray
    noise: np.ndarray


Solver = Callable[[Schedule, int, float, float], SolverCoefficients]


def ddim(schedule: Schedule, num_steps: int, strength: float = 1.0, eta: float = 0.0) -> SolverCoefficients:
    """DDIM's table: `num_steps` over the whole range, of which `strength` in (0,1] keeps the last part.

    `eta` 0 is deterministic, 1 has the variance of ancestral sampling.
    """
    total = schedule.num_train_timesteps
    _check(num_steps, strength, total)
    if schedule.timestep_spacing == "linspace":
        timesteps = np.linspace(0, total - 1, num_steps).round()[::-1]
    elif schedule.timestep_spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (total // num_steps) + schedule.steps_offset
    else:
        timesteps = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    alphas = schedule.alphas_cumprod()
    timesteps = _last(timesteps.astype(int), num_steps, strength, total)
    following = timesteps - total // num_steps
    final = 1.0 if schedule.set_alpha_to_one else alphas[0]
    now, after = alphas[timesteps], np.where(following >= 0, alphas[following], final)
    variance = np.maximum((1 - after) / (1 - now) * (1 - now / after), 0)
    noise = eta * np.sqrt(variance)
    direction = np.sqrt(np.maximum(1 - after - noise**2, 0))
    return _coefficients(timesteps, now, after, direction, np.zeros_like(now), noise)


def dpm_solver(
    schedule: Schedule, num_steps: int, strength: float = 1.0, eta: float = 0.0
) -> SolverCoefficients:
    """DPM-Solver++(2M)'s table; as good as DDIM in about half the steps. Deterministic: `eta` must be 0."""
    total = schedule.num_train_timesteps
    _check(num_steps, strength, total)
    if eta:
        raise ValueError(f"dpm_solver is deterministic: eta must be 0, found {eta}; use ddim")
    if schedule.timestep_spacing == "linspace":
        timesteps = np.linspace(0, total - 1, num_steps + 1).round()[:0:-1]
    elif schedule.timestep_spacing == "leading":
        timesteps = np.arange(1, num_steps + 1)[::-1] * (total // (num_steps + 1)) + schedule.steps_offset
    else:
        timesteps = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    timesteps = _last(timesteps.astype(int), num_steps, strength, total)
    now = np.maximum(schedule.alphas_cumprod()[timesteps], 2.0**-24)
    after = np.append(now[1:], 1.0)
    alpha, sigma, next_alpha, next_sigma = (np.sqrt(x) for x in (now, 1 - now, after, 1 - after))
    log_snr = np.log(alpha / sigma)
    interval = np.diff(log_snr)
    correction = np.zeros_like(now)
    inner = slice(1, len(now) - 1)
    gain = next_alpha - next_sigma * alpha / sigma
    correction[inner] = (gain[inner] / 2) * interval[1:] / interval[:-1]
    return _coefficients(timesteps, now, after, next_sigma, correction, np.zeros_like(now))


def _check(num_steps: int, strength: float, total: int) -> None:
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps must be in 1..{total}, found {num_steps}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], found {strength}")
    if int(num_steps * strength) < 1:
        raise ValueError(f"strength {strength} leaves none of {num_steps} steps: raise one of the two")


def _last(timesteps: np.ndarray, num_steps: int, strength: float, total: int) -> np.ndarray:
    if timesteps.max() >= total or timesteps.min() < 0:
        raise ValueError(f"timesteps {timesteps.tolist()} leave 0..{total - 1}: check steps_offset")
    return timesteps[num_steps - int(num_steps * strength) :]


def _coefficients(timesteps, now, after, direction, correction, noise) -> SolverCoefficients:
    levels = np.sqrt(now), np.sqrt(1 - now), np.sqrt(after)
    return SolverCoefficients(
        *(np.asarray(x, np.float32) for x in (timesteps, *levels, direction, correction, noise))
    )
