"""Where a model's files are: a local folder, or a repository on the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {  # the small worlds' models that come with gap_jax: their parts, "" being the pipeline
    "small": ("", "clip", "depth", "critic"),
    "wildlife": ("", "clip", "waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic"),
}
MODEL_FILES = ("model_index.json", "config.json")


class Repo:
    """A model's folder or hub repository, of which files are asked by name.

    Hub files are downloaded once into huggingface_hub's cache; offline (`local_files_only`, or the
    environment's HF_HUB_OFFLINE=1, or no network) the cache is all there is.
    """

    def __init__(self, model: str | Path, *, revision: str | None = None, local_files_only: bool = False):
        self.model = str(model)
        self.revision = revision
        self.local_files_only = local_files_only
        self.unreachable = ""
        self.folder = Path(model).expanduser() if Path(model).expanduser().exists() else None
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(
                f"{model} is a file: give the model's folder, in diffusers' or transformers' layout"
            )
        if self.folder is None:
            self._check_hub_id()

    def _check_hub_id(self) -> None:
        from huggingface_hub.utils import validate_repo_id

        problem = f"{self.model!r} is neither a folder that exists nor a hub id (organisation/name)"
        try:
            validate_repo_id(self.model)
        except ValueError as error:
            raise FileNotFoundError(problem) from error
        if self.model.count("/") != 1 or self.model.startswith("."):
            raise FileNotFoundError(problem)

    def find(self, name: str) -> Path | None:
        """The local path of the file `name` (`"unet/config.json"`), or None if the model has none."""
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        from huggingface_hub import errors, hf_hub_download

        try:
            path = hf_hub_download(
                self.model, name, revision=self.revision, local_files_only=self.local_files_only
            )
            return Path(path)
        except errors.LocalEntryNotFoundError as error:
            self.unreachable = (
                f" It is not in the local cache, and the hub was not asked or not reached: {error}"
            )
            return None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise PermissionError(
                f"{self.model} is gated: accept its terms on the hub and log in (hf auth login)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise FileNotFoundError(f"{self.model} has no revision {self.revision!r}") from error
        except errors.RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"the hub has no model {self.model!r}, or it is private: log in (hf auth login)"
            ) from error
        except (OSError, errors.HfHubHTTPError) as error:
            raise ConnectionError(
                f"{name} of {self.model} could not be downloaded: {error}. Try again, or give a local folder"
            ) from error

    def require(self, name: str) -> Path:
        """As `find`; raises FileNotFoundError for None."""
        path = self.find(name)
        if path is None:
            raise FileNotFoundError(f"{self.model} has no {name}.{self.unreachable}")
        return path

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in the JSON file `name`; raises ValueError where it is not one."""
        return read_json(self.require(name))


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def shipped(model: str | Path, part: str = "") -> str | Path:
    """`model`, or for a name in `SHIPPED` the folder of (that part of) its models.

    Raises FileNotFoundError for a part that they do not have, and where the installation lacks them.
    """
    if model not in SHIPPED:
        return model
    if part not in SHIPPED[model]:
        raise FileNotFoundError(f"{model!r} has no {part}: it has {', '.join(SHIPPED[model][1:])}")
    folder = ASSETS / model / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"this installation of gap_jax lacks {folder}: install it anew, or train the models of the small "
            "world by `python -m gap_jax.small_worlds.pretrain`"
        )
    return folder
