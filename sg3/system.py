"""What operating systems do differently: memory, processors, locks, and processes.

Linux is tested. On macOS and Windows the same code takes the other branches; tests take them with
what those systems lack hidden (`tests/support/windows`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Forked workers share the dataset's lists without a copy and need not import torch again. On
#: macOS, system libraries do not survive a fork; Windows has none.
CAN_FORK = sys.platform == "linux"
START_METHOD = "fork" if CAN_FORK else "spawn"
#: Whether a file can be replaced, renamed and removed while someone has it open or mapped.
REPLACES_OPEN_FILES = sys.platform != "win32"
#: Limit of the container's memory.
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
UNKNOWN_MEMORY = 8 << 30  # bytes that a machine has if it does not say


def use_fallbacks() -> None:
    """Let Apple's GPU leave operators that it lacks to the CPU; torch names each once.

    Must be called before torch is imported; sets an environment variable, so only programs do.
    """
    if sys.platform == "darwin":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if CAN_FORK else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container if that is less, in bytes."""
    if sys.platform == "win32":
        return _windows_memory() or UNKNOWN_MEMORY
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = CGROUP_LIMIT.read_text(encoding="ascii").strip() if CGROUP_LIMIT.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far; 0 if the system does not say."""
    if sys.platform == "win32":
        return _windows_peak_memory()
    # ru_maxrss would include the memory of the parent at the time of the fork.
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _MemoryStatus(ctypes.Structure):
    """`MEMORYSTATUSEX`."""

    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    ]


class _MemoryCounters(ctypes.Structure):
    """`PROCESS_MEMORY_COUNTERS`."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    ]


def _kernel32() -> Any:
    return getattr(ctypes, "windll", None) and ctypes.windll.kernel32  # type: ignore[attr-defined]


def _windows_memory() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel = _kernel32()
    return status.total if kernel and kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else 0


def _windows_peak_memory() -> int:
    counters = _MemoryCounters(size=ctypes.sizeof(_MemoryCounters))
    kernel = _kernel32()
    if not kernel:
        return 0
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    done = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return counters.peak if done else 0


def lock(file: IO, wait: bool = True) -> bool:
    """Lock the open `file` until it is closed.

    Returns False if someone else, in this process or another, holds the lock and `wait` is false.
    File systems without locks check nothing, and the result is True.
    """
    if fcntl is None:
        return _lock_on_windows(file, wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _lock_on_windows(file: IO, wait: bool) -> bool:
    try:
        import msvcrt
    except ImportError:
        return True
    file.seek(0)
    while True:
        try:
            # Windows locks bytes; they need not exist. LK_LOCK gives up after ten seconds.
            mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined]
            msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            if not wait:
                return False


def sync_folder(folder: Path) -> None:
    """Write the folder itself to the disk: only then a renaming in it survives a crash."""
    if sys.platform == "win32":
        return  # cannot open folders; NTFS keeps a journal of names
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def own_group() -> dict[str, Any]:
    """Return arguments of `subprocess.Popen`: signals that end this process spare the new one."""
    if sys.platform == "win32":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    return {"start_new_session": True}


def ask_to_stop(pid: int) -> None:
    """Send the signal that `sg3` commands answer by saving and ending.

    The process must have been started with `own_group`. Raises OSError if it is gone.
    """
    # On Windows SIGTERM would end the process at once.
    os.kill(pid, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


def command_line(pid: int) -> str:
    """Return the command line of a process; "" if it is gone or the system does not say."""
    file = Path(f"/proc/{pid}/cmdline")
    if file.is_file():
        return file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    query = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    if sys.platform == "win32":
        wanted = f"(Get-CimInstance Win32_Process -Filter 'ProcessId={pid}').CommandLine"
        query = ["powershell", "-NoProfile", "-Command", wanted]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
