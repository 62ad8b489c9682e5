"""Two procedural worlds of 64-pixel pictures: their renderers, data sets, pretraining and probes."""
