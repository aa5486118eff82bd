"""The user's own names of networks: `$SG3_MODELS`, or `~/.config/sg3/models.json`.

    {
      "my-faces": "https://example.com/faces.pkl",
      "my-cats": {
        "source": "hf://me/cats/network.safetensors@v1",
        "sha256": "9f86d081…", "size_bytes": 120000000, "resolution": 256, "licence": "cc-by-4.0"
      }
    }

A source is an https URL, an hf:// address, or a path, relative to the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sg3.checkpoints.entry import Entry
from sg3.errors import UserError
from sg3.files import parse_json

#: Keys of an entry, with their types.
KEYS = {"source": str, "sha256": str, "size_bytes": int, "resolution": int, "licence": str}
NAME, HASH = re.compile(r"[\w-][\w.-]*"), re.compile(r"[0-9a-f]{64}")


def user_models_path() -> Path:
    """Return the path of the user's file, whether it exists or not."""
    if chosen := os.environ.get("SG3_MODELS"):
        return Path(chosen).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "sg3" / "models.json"


def read_user_models(taken: Collection[str] = ()) -> dict[str, Entry]:
    """Return the networks of the user's file by name; none if there is no file.

    `taken` names, in lower case, cannot be given again.

    Raises ValueError, with the file and the name, for anything malformed.
    """
    path = user_models_path()
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get("SG3_MODELS"):
            raise UserError(f"SG3_MODELS: {path}: no such file") from None
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f'{path}: expected an object of names, as in {{"my-faces": "FILE"}}')
    for name in found:
        if not NAME.fullmatch(name) or name.lower() in taken:
            raise UserError(
                f"{path}: {name}: expected a name of letters, digits, _ . - that is not taken"
            )
    return {name: _entry(path, name, value) for name, value in found.items()}


def _entry(path: Path, name: str, value: Any) -> Entry:
    """Return the entry `name` of the file `path`."""
    where = f"{path}: {name}"
    fields = {"source": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or "source" not in fields:
        raise UserError(f"{where}: expected a source, or an object with one")
    for key, given in fields.items():
        if key not in KEYS:
            raise UserError(f"{where}: got {key!r}, expected {', '.join(KEYS)}")
        if type(given) is not KEYS[key]:
            kind = "a whole number" if KEYS[key] is int else "a text"
            raise UserError(f"{where}: {key}: got {given!r}, expected {kind}")
    sha256 = fields.get("sha256", "").lower() or None
    if sha256 and not HASH.fullmatch(sha256):
        raise UserError(f"{where}: sha256: got {sha256!r}, expected 64 hexadecimal digits")
    source = fields["source"]
    if "://" not in source:
        source = str((path.parent / Path(source).expanduser()).resolve())
    return Entry(
        name,
        source,
        fields.get("resolution", 0),
        fields.get("licence", "unknown"),
        sha256,
        fields.get("size_bytes"),
    )
