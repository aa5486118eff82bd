"""Zip archives of others: directory and entries may not claim more than the file can hold."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from typing import Any

from sg3.errors import UserError, brief

#: What else than OSError damaged archives raise when they are opened or read.
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a method of compression
    OverflowError,
    RuntimeError,  # encryption
    UnicodeDecodeError,
)
SMALLEST = 2**16  # bytes that `zipfile` may read at once from any archive
FREE_BYTES = 100 << 20  # that entries may unpack to, besides four times the archive


class _Bounded:
    """A file whose single reads are limited: `zipfile` reads a directory as large as claimed."""

    def __init__(self, file: Any, limit: int):
        self.seek, self.tell, self.close, self.file = file.seek, file.tell, file.close, file
        self.limit = limit

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        # Without a count, `zipfile` looks for the end record in the last 64 kB.
        if count > self.limit:
            raise UserError("the directory of the zip archive is too large (damaged or malicious)")
        return self.file.read(count)


class _Archive(zipfile.ZipFile):
    """An archive that closes its file."""

    def __init__(self, file: _Bounded):
        self._opened = file
        super().__init__(file)

    def close(self) -> None:
        super().close()
        if self.fp is None:  # also after an error in the constructor
            self._opened.close()


def open_zip(file: Any, max_directory: int | None = None) -> zipfile.ZipFile:
    """Open a zip archive, which closes the file in the end.

    Args:
        file: path, or binary file.
        max_directory: maximum size of its directory in bytes; None: the size of the file.

    Raises ValueError for a damaged one, OSError for one that cannot be read.
    """
    opened = open(file, "rb") if isinstance(file, (str, os.PathLike)) else file  # noqa: SIM115
    size = opened.seek(0, os.SEEK_END)
    limit = max(size, SMALLEST) if max_directory is None else max_directory
    try:
        return _Archive(_Bounded(opened, limit))
    except UserError:
        opened.close()
        raise
    except (*DAMAGED_ZIP, ValueError) as error:
        opened.close()
        raise UserError(f"a damaged or truncated zip archive: {brief(str(error))}") from None


def check_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raise ValueError for an entry that claims more bytes than the archive can hold.

    `zipfile` reserves what an entry claims before it reads it.
    """
    size = archive.start_dir
    limit = 4 * size + FREE_BYTES
    if info.compress_size > size or info.header_offset > size or info.file_size > limit:
        raise UserError(
            f"entry {brief(info.filename)!r} claims {info.file_size} bytes in a zip archive of "
            f"{size} (damaged or malicious)"
        )
