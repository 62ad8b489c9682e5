"""Names of metrics fit into sentences."""

import pytest

from gap_jax.tasks.metric import MetricStyle


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("Accuracy", "accuracy"),
        ("Macro F1", "macro F1"),
        ("Cross-entropy", "cross-entropy"),
        ("mIoU", "mIoU"),
        ("L1", "L1"),
        ("SSI-MAE", "SSI-MAE"),
        ("AbsRel", "AbsRel"),
        ("MiDaS loss", "MiDaS loss"),
        ("Omnidata’s MiDaS loss", "Omnidata’s MiDaS loss"),
        ("δ < 1.25", "δ < 1.25"),
    ],
)
def test_a_name_inside_a_sentence_begins_small_unless_it_is_a_proper_name(name, inside):
    assert MetricStyle(name, "", 1).name_in_text == inside
