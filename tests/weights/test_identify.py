"""The condition that a ControlNet's name tells, and the refusal of another one."""

import json

import pytest

from gap_jax.weights.identify import expect_condition, named_conditions


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lllyasviel/sd-controlnet-depth", {"depth"}),
        ("lllyasviel/control_v11f1p_sd15_depth", {"depth"}),
        ("thibaud/controlnet-sd21-zoedepth-diffusers", {"depth"}),
        ("thibaud/controlnet-sd21-ade20k-diffusers", {"class maps"}),
        ("models/control_v11p_sd15_seg.pth", {"class maps"}),
        ("lllyasviel/control_v11p_sd15_normalbae", {"surface normals"}),
        ("lllyasviel/sd-controlnet-canny", {"Canny edges"}),
        ("depth/controlnet", set()),
        ("someone/trained-on-textiles", set()),
    ],
)
def test_names_of_published_controlnets_tell_their_condition(name, found):
    assert named_conditions(name) == found


def test_a_saved_folder_tells_the_model_that_it_was(tmp_path):
    (tmp_path / "controlnet").mkdir()
    saved = {"_class_name": "ControlNetModel", "_name_or_path": "lllyasviel/sd-controlnet-seg"}
    (tmp_path / "controlnet" / "config.json").write_text(json.dumps(saved))
    assert named_conditions(tmp_path / "controlnet") == {"class maps"}


def test_only_another_condition_is_refused():
    for wanted, name in (("depth", "lllyasviel/sd-controlnet-canny"), ("class maps", "mine/hed-and-canny")):
        with pytest.raises(
            ValueError, match=rf"one for {wanted}, but its name tells of Canny edges"
        ) as error:
            expect_condition(name, wanted)
        assert len(str(error.value)) < 500
    assert "Give another, such as lllyasviel/sd-controlnet-seg; if the name" in str(error.value)
    for name in ("lllyasviel/sd-controlnet-seg", "mine/controlnet", "mine/canny-and-seg"):
        expect_condition(name, "class maps")
