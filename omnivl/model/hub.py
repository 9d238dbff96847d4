"""Models by name: a folder or file of this machine, or a repository of the Hugging Face hub, whose files are fetched
into huggingface_hub's own cache. What can go wrong there is said in one sentence. Nothing is downloaded where
HF_HUB_OFFLINE is set."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL_FILES = (
    "config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
    "preprocessor_config.json", "README.md", "results.json",
)  # fmt: skip
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
SOURCE_FILES = (
    *VOCABULARY_FILES, "config.json", "preprocessor_config.json", "adapter_config.json",
    "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors",
)  # fmt: skip
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = re.compile(r".*\.(safetensors|pth|pt|pyth|bin|ckpt|json|txt|onnx|zip|pkl)", re.IGNORECASE)


def local_folder(name: str | Path, *, files: Sequence[str] = MODEL_FILES, **hub: Any) -> Path:
    """The folder or file `name`, or the snapshot of the hub repository of that name ("user/name").

    Args:
        files: patterns of what is fetched from a repository.
        hub: revision, token, cache_dir, local_files_only, force_download, as `huggingface_hub.snapshot_download` takes
            them.

    Raises ValueError (one sentence) where there is neither.
    """
    if not str(name).strip():
        raise ValueError("a model without a name was asked for: give a folder, or a hub repository such as user/name")
    path = Path(os.path.expanduser(name))
    if path.exists() or not HUB_ID.fullmatch(str(name)) or FILE.fullmatch(str(name)):
        return path
    from huggingface_hub import snapshot_download

    with one_sentence(str(name), hub.get("revision")):
        folder = Path(snapshot_download(str(name), allow_patterns=list(files), **hub))
        if files is SOURCE_FILES and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(str(name), allow_patterns=[*files, *PICKLES], **hub))
    return folder


@contextmanager
def one_sentence(name: str, revision: str | None = None) -> Iterator[None]:
    """Errors of huggingface_hub as ValueErrors that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{name} is gated: ask for access on its page of the hub, then log in with `hf auth login` or give a token"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"there is no folder {name}, and the hub has no model of that name that you may read: check the spelling, "
            "or log in with `hf auth login` where it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision!r} on the hub") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise ValueError(
            f"there is no folder {name}, nor is it in the cache of the hub, which cannot be reached or is switched off "
            "(HF_HUB_OFFLINE, local_files_only): go online, or name a folder"
        ) from None
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is not the name of a hub repository: {one_line(error)}") from None
    except errors.LocalTokenNotFoundError:
        raise ValueError("there is no hub token on this machine: log in with `hf auth login` or give a token") from None
    except (errors.HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            told = "the hub refuses it: log in with `hf auth login`, or give a token that may do this"
        else:
            told = f"the hub could not be read or written: {one_line(error)}"
        raise ValueError(f"{name}: {told}") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def push_folder(
    folder: Path, repo_id: str, *, private: bool | None, token: str | bool | None, branch: str | None, **upload: Any
) -> str:
    """Upload a folder into a repository, made where there is none; gives the address of the commit. Raises ValueError
    (one sentence)."""
    from huggingface_hub import HfApi

    with one_sentence(repo_id, branch):
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        return str(
            api.upload_folder(
                repo_id=repo_id, repo_type="model", folder_path=os.fspath(folder), revision=branch, **upload
            )
        )
