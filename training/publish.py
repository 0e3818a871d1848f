# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Publishing a trained model on the Hub: what can be known to fail is checked before training."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from ..distributed import fail_together
from ..errors import InputError

# What `save_pretrained` of a model and a processor and `write_card` leave in a folder.
PUBLISHED = ["README.md", "*.py", "*.json", "*.txt", "model*.safetensors"]
# Folders hold states to resume from and logs of trackers; predictions and other reports tell about the user's data.
NOT_PUBLISHED = ["*/*", "predictions_*.json"]


@dataclass
class HubArguments:
    """Whether and where to publish the model."""

    _argument_group_name = "hub"

    push_to_hub: bool = field(default=False, metadata={"help": "Publish the model on the Hub after training."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Where: user/name or name; by default the name of --output_dir."}
    )
    hub_private: bool = field(default=False, metadata={"help": "Make a new repository private."})


def name_to_publish(args: HubArguments, output_dir: str) -> str | None:
    """Where to publish, if at all; an `InputError` on all processes where that cannot be."""
    if not args.push_to_hub:
        return None
    name = args.hub_model_id or Path(output_dir).absolute().name
    return fail_together(lambda: check_hub_login(name) if PartialState().is_main_process else name)


def check_hub_login(hub_model_id: str) -> str:
    """The full name, user/name, of a repository that the user who is logged in may write to.

    Call it before training, on the main process within `fail_together`. It writes nothing.

    Raises:
        InputError: when the name is no name, nobody is logged in, or the Hub cannot be reached or refuses.
    """
    option = f"--push_to_hub to {hub_model_id}"
    try:
        validate_repo_id(hub_model_id)
        user = HfApi().whoami()
    except HFValidationError as error:
        raise InputError(f"--hub_model_id {hub_model_id}: is no name for a repository, user/name.") from error
    except LocalTokenNotFoundError as error:
        raise InputError(f"{option}: nobody is logged in; use hf auth login, or set HF_TOKEN.") from error
    except OfflineModeIsEnabled as error:
        raise InputError(f"{option}: HF_HUB_OFFLINE is set.") from error
    except HTTPError as error:
        raise InputError(f"{option}: {reason(error)}") from error
    owner, _, name = hub_model_id.rpartition("/")
    if owner and owner not in [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]:
        raise InputError(f"{option}: {user['name']}, who is logged in, is not a member of {owner}.")
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(f"{option}: the token of {user['name']} may only read; log in with one that may write.")
    return f"{owner or user['name']}/{name}"


def push_to_hub(folder: str | Path, hub_model_id: str, private: bool = False) -> str:
    """Publish the model, processor, code and card in a folder; the repository is made unless it exists.

    Call it on the main process.

    Returns:
        Address of the commit.

    Raises:
        InputError: when that fails; the folder is whole, and the message says how to try again.
    """
    api = HfApi()
    try:
        api.create_repo(hub_model_id, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=hub_model_id,
            folder_path=folder,
            allow_patterns=PUBLISHED,
            ignore_patterns=list(NOT_PUBLISHED),  # the function adds to it
            commit_message="Upload model",
        )
    except (HTTPError, OfflineModeIsEnabled) as error:
        retry = upload_command(folder, hub_model_id, private)
        raise InputError(f"--push_to_hub to {hub_model_id}: {reason(error)} To try again: {retry}") from error


def upload_command(folder: str | Path, hub_model_id: str, private: bool) -> str:
    """The command that uploads what [`push_to_hub`] does."""
    words = ["hf", "upload", hub_model_id, str(folder), ".", *(["--private"] if private else [])]
    for option, patterns in (("--include", PUBLISHED), ("--exclude", NOT_PUBLISHED)):
        words += [f"{option}={pattern}" for pattern in patterns]
    return shlex.join(words)


def reason(error: Exception) -> str:
    """Why the Hub did not do what was asked, as a sentence."""
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code == 401:
            return "the Hub does not accept the token; use hf auth login, or set another HF_TOKEN."
        said = error.server_message or error.response.reason_phrase
        return f"the Hub answers {error.response.status_code}, {said.rstrip('.')}."
    return f"the Hub cannot be reached ({type(error).__name__})."
