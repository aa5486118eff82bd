"""Atomic file writing, and checks of output folders."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg3 import system
from sg3.errors import UserError

if TYPE_CHECKING:
    import torch

ALIGNMENT_BYTES = 64  # alignment of torch's CPU allocator


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which is renamed to `path` if the block succeeds.

    The data are flushed to disk before the renaming. On an exception the temporary file is removed.
    It has the suffix of `path`, since some writers choose their format by it.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give the file `source` the second name `target`, atomically, replacing what is there.

    A hard link takes no space; where the file system has none, the file is copied. Our files are
    never changed in place, only replaced, so that `target` keeps its content.
    """
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    """Write `tensors` (on any device) and `metadata` as safetensors, atomically.

    Raises OSError if the disk is full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Copies, since the format refuses tensors that share memory.
    own = {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(own, temporary, metadata)
        except SafetensorError as error:
            reason = str(error).split("I/O error: ")[-1].split(" (os error")[0]
            raise OSError(errno.EIO, reason, str(path)) from error


def write_archive(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write plain data and tensors with `torch.save`, atomically."""
    import torch

    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_tensors(
    path: str | os.PathLike, kind: str = "file", expected: str = ""
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file, on the CPU.

    Raises ValueError for a missing or damaged file; `kind` names it in the message, and `expected`
    says what to give instead.
    """
    with _open_tensors(path, kind, expected) as file:
        tensors = {name: aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def read_metadata(
    path: str | os.PathLike, kind: str = "file", expected: str = ""
) -> dict[str, str]:
    """Read only the metadata of a safetensors file; arguments and errors as `read_tensors`."""
    with _open_tensors(path, kind, expected) as file:
        return file.metadata() or {}


@contextmanager
def _open_tensors(path: str | os.PathLike, kind: str, expected: str) -> Iterator[Any]:
    """Open a safetensors file; failures become UserErrors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{kind} {path}: no such file") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{kind} {path}: cannot be read ({reason})") from None
    except SafetensorError:
        hint = f"; expected {expected}" if expected else ""
        raise UserError(f"{kind} {path}: damaged or not a safetensors file{hint}") from None


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` if its memory is aligned as torch aligns it and not a file's, else a copy.

    What is read from a safetensors file is a map of the file, which Windows would not let anyone
    replace as long as the tensor lives.

    The rounding of matrix products depends on the alignment (MKL on AMD processors). Without this,
    a resumed run would differ in the last bits from an uninterrupted one.
    """
    keep = system.REPLACES_OPEN_FILES and tensor.data_ptr() % ALIGNMENT_BYTES == 0
    return tensor if keep else tensor.clone()


def prepare_folder(path: str | os.PathLike) -> Path:
    """Create the folder `path` and check that it is writable. Raises ValueError otherwise."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"folder {path}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    return path


def check_folder(path: str | os.PathLike) -> None:
    """Raise ValueError if the folder `path` cannot be created or written to. Creates nothing."""
    nearest = Path(path).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"folder {path}: {nearest} is not a folder; choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"folder {path}: cannot write to {nearest}; choose another folder")


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
