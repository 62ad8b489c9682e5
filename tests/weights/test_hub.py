"""Tests of loading models by hub id, from a simulated hub: no test uses the network."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import errors

import gap_jax

MODEL, CONTROLNET = "someone/stable-diffusion", "someone-else/controlnet.depth_v1"
RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.fixture
def hub(sd15, tmp_path, monkeypatch):
    """A simulated hub with a pipeline and a ControlNet; `asked` records its calls, `fails` makes it raise."""
    folder = Path(shutil.copytree(sd15.folder, tmp_path / "hub"))
    folders = {MODEL: folder, CONTROLNET: sd15.folder / "controlnet"}
    hub = SimpleNamespace(folder=folder, asked=[], fails=lambda name: None)

    def download(repo_id, filename, *, revision, local_files_only):
        hub.asked.append((repo_id, filename, revision, local_files_only))
        if error := hub.fails(filename):
            raise error
        path = folders[repo_id] / filename
        if not path.is_file():
            raise errors.RemoteEntryNotFoundError(f"404: no {filename}", response=RESPONSE)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return hub


def assert_same(loaded, model):
    pipe, params = loaded
    assert pipe == model.pipe
    jax.tree.map(np.testing.assert_array_equal, params, model.params)


def names(hub, model=MODEL):
    return {name for repo_id, name, *_ in hub.asked if repo_id == model}


def test_hub_id_loads_like_the_folder(hub, sd15):
    assert_same(gap_jax.load_pipeline(MODEL), sd15)
    assert {asked[2:] for asked in hub.asked} == {(None, False)}
    assert "unet/diffusion_pytorch_model.safetensors" in names(hub)
    assert not any(name.endswith((".bin", ".index.json")) for name in names(hub))


def test_shards_are_asked_for_one_by_one(hub, sd15):
    for component in ("text_encoder", "vae", "unet", "controlnet"):
        [weights] = (hub.folder / component).glob("*.safetensors")
        weights.unlink()
        getattr(sd15.torch, component).save_pretrained(hub.folder / component, max_shard_size="200KB")
    assert_same(gap_jax.load_pipeline(MODEL), sd15)
    on_disk = {str(path.relative_to(hub.folder)) for path in hub.folder.rglob("*.safetensors")}
    assert len(on_disk) > 4
    assert on_disk <= names(hub)


def test_every_file_is_of_the_revision_asked_for(hub, sd15):
    pipe, params = gap_jax.load_pipeline(MODEL, controlnet=CONTROLNET, revision="fp32", local_files_only=True)
    assert_same((pipe, params), sd15)
    assert {asked[2:] for asked in hub.asked if asked[0] == MODEL} == {("fp32", True)}
    assert {asked[2:] for asked in hub.asked if asked[0] == CONTROLNET} == {(None, True)}
    assert not any(name.startswith("controlnet/") for name in names(hub))
    hub.asked.clear()
    gap_jax.add_controlnet(pipe, params, CONTROLNET, revision="v1.1")
    assert {asked[2:] for asked in hub.asked} == {("v1.1", False)}


def test_clip_loads_by_hub_id(clip, monkeypatch):
    def download(repo_id, filename, **_):
        assert repo_id == "openai/clip-vit-tiny"
        if not (clip.folder / filename).is_file():
            raise errors.RemoteEntryNotFoundError("404", response=RESPONSE)
        return str(clip.folder / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    ours, params = gap_jax.load_clip("openai/clip-vit-tiny")
    assert ours == clip.clip
    jax.tree.map(np.testing.assert_array_equal, params, clip.params)


def no_network(name):
    return errors.LocalEntryNotFoundError(f"cannot connect to find {name}")


@pytest.mark.parametrize("missing", ["model_index.json", "unet/config.json", "tokenizer", "vae/diffusion"])
def test_without_network_the_file_that_is_not_cached_is_named(hub, missing):
    hub.fails = lambda name: no_network(name) if name.startswith(missing) else None
    with pytest.raises(FileNotFoundError) as caught:
        gap_jax.load_pipeline(MODEL)
    for part in (MODEL, missing, "not in the local cache", "not reached", "cannot connect"):
        assert part in str(caught.value)


def test_controlnet_of_a_pipeline_is_not_left_out_when_unreachable(hub):
    hub.fails = lambda name: no_network(name) if name.startswith("controlnet/") else None
    with pytest.raises(FileNotFoundError, match=r"no controlnet/config\.json.*\(cannot connect"):
        gap_jax.load_pipeline(MODEL)


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (errors.GatedRepoError, PermissionError, "is gated: accept its terms"),
        (
            errors.RepositoryNotFoundError,
            FileNotFoundError,
            "the hub has no model .*, or it is private: check the name, or log in",
        ),
        (errors.RevisionNotFoundError, FileNotFoundError, "has no revision 'v9'"),
        (errors.HfHubHTTPError, ConnectionError, "model_index.json of .* could not be downloaded: 503"),
    ],
)
def test_refusals_of_the_hub_are_explained(hub, failure, kind, message):
    hub.fails = lambda name: failure("503", response=RESPONSE)
    with pytest.raises(kind, match=message) as caught:
        gap_jax.load_pipeline(MODEL, revision="v9")
    assert MODEL in str(caught.value)


def test_broken_connection_is_explained(hub):
    hub.fails = lambda name: TimeoutError("timed out") if "unet/diffusion" in name else None
    with pytest.raises(ConnectionError, match=r"unet/diffusion.* could not be downloaded: timed out"):
        gap_jax.load_pipeline(MODEL)


@pytest.mark.parametrize("model", ["stable-diffusion", "a/b/c", "some one/model", "./model", "../m", "~/m"])
def test_neither_folder_nor_hub_id_is_not_asked_for(hub, model):
    with pytest.raises(FileNotFoundError, match="neither an existing folder nor a hub id"):
        gap_jax.load_pipeline(model)
    assert not hub.asked


def test_cache_of_the_real_client_serves_offline(sd15, tmp_path, monkeypatch):
    """Uses huggingface_hub itself, offline (see conftest.py), on a cache in its layout."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json.* not in the local cache"):
        gap_jax.load_pipeline(MODEL)
    cache, commit = tmp_path / "models--someone--stable-diffusion", 40 * "c"
    shutil.copytree(sd15.folder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    assert_same(gap_jax.load_pipeline(MODEL), sd15)
    assert_same(gap_jax.load_pipeline(MODEL, revision=commit, local_files_only=True), sd15)
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json.* not in the local cache"):
        gap_jax.load_pipeline(MODEL, revision="other")
