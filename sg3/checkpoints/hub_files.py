"""Networks in repositories of the Hugging Face hub: `hf://OWNER/NAME[/FILE][@REVISION]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sg3._version import __version__
from sg3.checkpoints.content import foreign_file
from sg3.checkpoints.hub import ask_hub_once, root_cause
from sg3.errors import UserError
from sg3.telemetry import turn_off_telemetry

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
SUFFIXES = (".safetensors", ".pkl", ".pt", ".pth")
#: Name of a user or organization, and of a repository: `OWNER/NAME`.
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
ADDRESS = re.compile(
    rf"{SCHEME}(?P<repo>[^/@]+/[^/@]+)(?:/(?P<file>[^@]+?))?/?(?:@(?P<revision>.+))?"
)
#: As many names as a message lists.
LISTED = 8

#: Files by hub and address, found by this process. A page asks for its network again and again.
_found: dict[tuple[str, str], Path] = {}


@dataclass(frozen=True)
class HubAddress:
    """A network on the hub.

    Attributes:
        repo: `OWNER/NAME`.
        file: path in the repository; None: its only network.
        revision: branch, tag or commit; None: the main branch.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{SCHEME}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_address(text: str) -> HubAddress:
    """Parse `hf://OWNER/NAME[/FILE][@REVISION]`. Raises ValueError for anything else."""
    found = ADDRESS.fullmatch(text.strip())
    file = found["file"] if found else None
    climbs = file is not None and (".." in file.split("/") or "\\" in file)
    if found is None or climbs or not REPOSITORY.fullmatch(found["repo"]):
        raise UserError(f"{text}: expected hf://OWNER/NAME[/FILE][@REVISION]")
    return HubAddress(found["repo"], file, found["revision"])


def fetch_from_hub(text: str) -> Path:
    """Return the local file of `hf://OWNER/NAME[/FILE][@REVISION]`, downloaded if needed.

    Files are kept in the cache of huggingface_hub, which other programs share. If the hub cannot
    be reached, what is there is used.

    Raises ValueError: no such repository, revision or file; several networks, or none; a private
    repository without a token; no connection.
    """
    address = parse_hub_address(text)
    with ask_hub_once(), hub_errors(str(address), address.repo):
        api = hub_api()
        key = (api.endpoint, str(address))
        if key not in _found or not _found[key].exists():
            file = address.file or _only_network(api, address)
            path = Path(api.hf_hub_download(address.repo, file, revision=address.revision))
            if kind := foreign_file(path):
                raise UserError(f"{address}: {kind}, expected a file of tensors (cached as {path})")
            _found[key] = path
    return _found[key]


def hub_api() -> HfApi:
    """Return the interface of the hub, which is at HF_ENDPOINT if that is set."""
    turn_off_telemetry()
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="sg3", library_version=__version__)


def _only_network(api: HfApi, address: HubAddress) -> str:
    """Return the path of the network in a repository. Raises UserError unless there is one."""
    names = _files(api, address)
    networks = [name for name in names if name.lower().endswith(SUFFIXES)]
    if len(networks) == 1:
        return networks[0]
    if networks:
        example = f"{SCHEME}{address.repo}/{networks[0]}"
        raise UserError(
            f"{address}: has {len(networks)} networks, {_listed(networks)}; choose one, as in "
            f"{example}"
        )
    raise UserError(f"{address}: has no network ({', '.join(SUFFIXES)}), only {_listed(names)}")


def _files(api: HfApi, address: HubAddress) -> list[str]:
    """Return the files of a repository: on the hub, or else those in the cache."""
    from huggingface_hub import constants, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        return api.list_repo_files(address.repo, revision=address.revision)
    folder = Path(snapshot_download(address.repo, revision=address.revision, local_files_only=True))
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more


@contextmanager
def hub_errors(where: str, repo: str) -> Iterator[None]:
    """Turn the hub's errors into one line: what is wrong with `where`, and what to do."""
    from huggingface_hub import get_token
    from huggingface_hub import utils as hub

    login = "log in by `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except UserError:
        raise
    except hub.GatedRepoError:
        raise UserError(
            f"{where}: its owner must grant you access; ask on the page of {repo}, and {login}"
        ) from None
    except hub.RepositoryNotFoundError:
        private = "your token may not read" if get_token() else f"needs a token ({login})"
        raise UserError(f"{where}: no such repository, or a private one that {private}") from None
    except hub.RevisionNotFoundError:
        raise UserError(f"{where}: no such revision; expected a branch, tag or commit") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        from huggingface_hub import constants

        raise UserError(
            f"{where}: not in the cache {constants.HF_HUB_CACHE}, and the hub at "
            f"{constants.ENDPOINT} cannot be reached ({root_cause(error)}); check the network "
            "connection and HF_HUB_OFFLINE"
        ) from None
    except hub.EntryNotFoundError:
        raise UserError(
            f"{where}: no such file in the repository; {SCHEME}{repo} finds its only network"
        ) from None
    except hub.HfHubHTTPError as error:
        raise UserError(f"{where}: {_refusal(error, login)}") from None
    except ValueError as error:  # malformed names
        raise UserError(f"{where}: {root_cause(error)}") from None
    except OSError as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from None
    except Exception as error:
        # Errors of the connection have a class of whichever HTTP library the hub uses.
        raise UserError(f"{where}: the hub failed ({root_cause(error)}); try again") from None


def _refusal(error: Exception, login: str) -> str:
    """Say why the hub refused, by the status of its answer."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = getattr(error, "server_message", None) or root_cause(error)
    said = " ".join(str(said).split())
    if status == 401:
        return f"the hub does not accept the token ({said}); {login}"
    if status == 403:
        return f"the token does not allow this ({said}); use one with the right to write"
    return f"the hub answered {status} ({said})"
