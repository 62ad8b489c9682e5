"""The code in docs/own-model.md runs as written."""

import numpy as np

from gap_jax.diffusion.align import see
from tests.documents.blocks import ROOT, code_blocks, run_block

DOCUMENT = ROOT / "docs" / "own-model.md"


def test_the_examples_run_as_written():
    names: dict = {}
    for block in code_blocks(DOCUMENT):
        run_block(DOCUMENT, block, names)
    assert names["logits"].shape == (2, 5)
    batch = {
        "image": names["images"],
        "classes": np.full((2, 64, 64, 1), 2),
        "normals": np.ones((2, 64, 64, 3)) * 0.5,
        "scribble": np.ones((2, 64, 64, 1), bool),
    }
    seen = see(batch, (lambda batch: names["class_condition"](batch["classes"]),))
    np.testing.assert_allclose(seen[0, 0, 0] * 255, [6, 230, 230], rtol=1e-6)  # ADE20K's sky
