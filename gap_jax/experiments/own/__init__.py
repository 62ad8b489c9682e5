"""The experiment on your own folder: `python -m gap_jax.experiments.own`."""
