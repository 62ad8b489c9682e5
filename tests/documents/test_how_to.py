"""The code on the pages about torch models and about other labels runs as written."""

import numpy as np

from gap_jax.diffusion.align import see
from tests.documents.blocks import ROOT, code_blocks, run_block

HOW_TO = ROOT / "docs" / "how-to"


def run(name):
    path, names = HOW_TO / name, {"np": np}
    for block in code_blocks(path):
        run_block(path, block, names)
    return names


def test_a_torch_module_predicts():
    assert run("torch-model.md")["logits"].shape == (2, 5)


def test_the_conditions_of_other_labels_are_images():
    names = run("conditions.md")
    batch = {"classes": np.full((2, 64, 64, 1), 2)}
    seen = see(batch, (lambda batch: names["class_condition"](batch["classes"]),))
    np.testing.assert_allclose(seen[0, 0, 0] * 255, [6, 230, 230], rtol=1e-6)  # ADE20K's sky
