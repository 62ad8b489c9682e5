"""The files of a model, in a local folder or in a repository on the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # suffixes of files with weights
ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {  # the models that come with gap_jax, one set per small world, and their parts; "" is the pipeline
    "small": ("", "clip", "depth", "critic", "dpt", "segmentation"),
    "wildlife": ("", "clip", "waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic"),
}


class Repo:
    """A model's folder or hub repository, whose files are found by name.

    Files of the hub are downloaded once into the cache of huggingface_hub. Offline (`local_files_only`, the
    environment variable HF_HUB_OFFLINE=1, or no network), only the cache is used.

    Raises ValueError if `model` is a file, FileNotFoundError if it is neither a folder nor a hub id.
    """

    def __init__(self, model: str | Path, *, revision: str | None = None, local_files_only: bool = False):
        self.model = str(model)
        self.revision = revision
        self.local_files_only = local_files_only
        self.unreachable = ""
        self.folder = Path(model).expanduser() if Path(model).expanduser().exists() else None
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(
                f"{model} is a file: give the folder of the model, in the layout of diffusers or transformers"
            )
        if self.folder is None:
            self._check_hub_id()
        elif not any(self.folder.iterdir()):
            raise FileNotFoundError(
                f"the folder {model} is empty: give the folder of the model, or delete this one if you mean "
                "the hub id"
            )

    def _check_hub_id(self) -> None:
        from huggingface_hub.utils import validate_repo_id

        advice = "give its last two parts" if "://" in self.model else "check the path"
        problem = f"{self.model!r} is neither an existing folder nor a hub id (organisation/name): {advice}"
        try:
            validate_repo_id(self.model)
        except ValueError as error:
            raise FileNotFoundError(problem) from error
        suffix = Path(self.model).suffix
        if self.model.count("/") != 1 or self.model.startswith(".") or suffix in FILES:
            raise FileNotFoundError(problem)

    def find(self, name: str) -> Path | None:
        """Return the local path of the file `name` (`"unet/config.json"`), or None if the model has none.

        Raises FileNotFoundError for an unknown model or revision, PermissionError for a gated model, and
        ConnectionError if a download fails.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path(
                hf_hub_download(
                    self.model, name, revision=self.revision, local_files_only=self.local_files_only
                )
            )
        except errors.LocalEntryNotFoundError as error:
            reason = str(error).strip().split("\n")[0][:100]
            self.unreachable = (
                f" It is not in the local cache, there is no local folder {self.model}, and the hub was not "
                f"reached ({reason}): check the path, or connect to the network, without local_files_only "
                "and HF_HUB_OFFLINE."
            )
            return None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise PermissionError(
                f"{self.model} is gated: accept its terms on the hub and log in (hf auth login)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise FileNotFoundError(
                f"{self.model} has no revision {self.revision!r} on the hub: give a branch, tag or commit"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"the hub has no model {self.model!r}, or it is private: check the name, or log in (hf auth "
                "login)"
            ) from error
        except (OSError, errors.HfHubHTTPError) as error:
            raise ConnectionError(
                f"{name} of {self.model} could not be downloaded: {error}. Try again, or give a local folder"
            ) from error

    def require(self, name: str) -> Path:
        """Return the path of the file `name` as `find` does; raise FileNotFoundError if there is none."""
        path = self.find(name)
        if path is None:
            raise FileNotFoundError(f"{self.model} has no {name}.{self.unreachable or self._hint(name)}")
        return path

    def _hint(self, name: str) -> str:
        """Return what a local folder without the file `name` holds, if it is another kind of model."""
        other, advice = {
            "config.json": ("model_index.json", "a whole pipeline: read it with load_pipeline"),
            "model_index.json": ("config.json", "a single network: for a pipeline, give the folder above it"),
        }.get(name, ("", ""))
        if self.folder is not None and other and (self.folder / other).is_file():
            return f" It holds {class_of(read_json(self.folder / other))}, {advice}."
        return " Check that this is the model's folder and that it is complete."

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in the JSON file `name`; raise as `require`, and ValueError for other content."""
        return read_json(self.require(name))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise ValueError for other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}; download or copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, found {type(content).__name__}: download or copy it again"
        )
    return content


def class_of(config: dict[str, Any]) -> str:
    """Return the name of the torch class in a configuration of diffusers or transformers, for messages."""
    named = config.get("_class_name") or config.get("architectures") or config.get("model_type")
    return str(named[0] if isinstance(named, list) else named or "a model of an unnamed class")


def shipped(model: str | Path, part: str = "") -> str | Path:
    """Return the folder of a part of a model in `SHIPPED`; return any other `model` as it is.

    Raises FileNotFoundError for a part that the model does not have, and if this installation lacks it.
    """
    if model not in SHIPPED:
        return model
    if part not in SHIPPED[model]:
        raise FileNotFoundError(f"{model!r} has no {part}: it has {', '.join(SHIPPED[model][1:])}")
    folder = ASSETS / model / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"this installation of gap_jax lacks {folder}: install it again, or train the models of the "
            "small worlds with `python -m gap_jax.small_worlds.pretrain`"
        )
    return folder
