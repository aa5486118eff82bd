"""What a file certainly is not, by its first bytes: web pages and the like answer for networks."""

from __future__ import annotations

from pathlib import Path

#: As many first bytes as `foreign_content` wants to see.
HEAD_BYTES = 512
#: Magic numbers of what is offered for download, but holds no network.
MAGIC = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"\xff\xfe<\0": "a web page",
    b"version https://git-lfs": "a Git LFS pointer instead of the file (`git lfs pull` fetches it)",
}
#: Control characters that occur in texts.
WHITE = b"\t\n\v\f\r\x1b"


def foreign_content(head: bytes) -> str | None:
    """Return what a file with these first bytes is, if it cannot hold tensors; None if it may.

    Files of tensors (safetensors, pickles, zip archives) are binary, so that any text is foreign:
    the pages of logins, quotas and errors that servers send with status 200.
    """
    if not head:
        return "an empty file"
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if any(byte < 32 and byte not in WHITE for byte in head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = {b"<": "a web page", b"{": "JSON", b"[": "JSON"}
    return kinds.get(text[:1], "text")


def foreign_file(path: Path) -> str | None:
    """Return what a file is, if it cannot hold tensors; None if it may."""
    with open(path, "rb") as file:
        return foreign_content(file.read(HEAD_BYTES))
