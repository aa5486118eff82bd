"""What a file is by its first bytes, if it is no network: for downloads and for messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: As many first bytes as the functions below want to see.
HEAD_BYTES = 512


@dataclass(frozen=True)
class Kind:
    """A kind of file that people and servers give for a network.

    Attributes:
        name: with its article.
        advice: what to do about it.
        is_foreign: whether it cannot hold tensors; downloads of it are refused.
    """

    name: str
    advice: str = "not a network"
    is_foreign: bool = True


#: By magic number.
KINDS = {
    b"version https://git-lfs": Kind("a Git LFS pointer instead of the file (run `git lfs pull`)"),
    b"\x1f\x8b": Kind("a gzip archive", "unpack it first (gunzip)"),
    b"BZh": Kind("a bzip2 archive", "unpack it first (bunzip2)"),
    b"\xfd7zXZ\0": Kind("an xz archive", "unpack it first (unxz)"),
    b"\x28\xb5\x2f\xfd": Kind("a zstd archive", "unpack it first (unzstd)"),
    b"7z\xbc\xaf": Kind("a 7z archive", "unpack it first"),
    b"Rar!": Kind("a RAR archive", "unpack it first"),
    b"\x89PNG": Kind("a PNG image"),
    b"\xff\xd8\xff": Kind("a JPEG image"),
    b"%PDF": Kind("a PDF"),
    b"\xff\xfe<\0": Kind("a web page", "download the file itself"),
    b"\x93NUMPY": Kind("a NumPy array, as projectors write latents", is_foreign=False),
    b"\x89HDF": Kind("an HDF5 file, as Keras writes", is_foreign=False),
}
#: By the first character of a text.
TEXTS = {
    b"<": Kind("a web page", "download the file itself"),
    b"{": Kind("JSON"),
    b"[": Kind("JSON"),
}
#: Control characters that occur in texts.
WHITE = b"\t\n\v\f\r\x1b"


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of a file with these first bytes; None for kinds that may be a network.

    Files of tensors (safetensors, pickles, zip archives) are binary, so that any text is foreign:
    the pages of logins, quotas and errors that servers send with status 200.
    """
    if not head:
        return Kind("an empty file")
    for magic, kind in KINDS.items():
        if head.startswith(magic):
            return kind
    if any(byte < 32 and byte not in WHITE for byte in head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return TEXTS.get(text[:1], Kind("text"))


def foreign_content(head: bytes) -> str | None:
    """Return what a file with these first bytes is, if it cannot hold tensors; None if it may."""
    kind = kind_of(head)
    return kind.name if kind is not None and kind.is_foreign else None


def foreign_file(path: Path) -> str | None:
    """Return what a file is, if it cannot hold tensors; None if it may."""
    with open(path, "rb") as file:
        return foreign_content(file.read(HEAD_BYTES))


def name_file(head: bytes) -> str:
    """Return what a file with these first bytes is, and what to do about it."""
    if (kind := kind_of(head)) is not None:
        return f"{kind.name}; {kind.advice}"
    return "a tar archive; unpack it first" if head[257:262] == b"ustar" else "an unknown format"
