"""Make Python look like Windows to this repository's code, in every process of a command.

With this folder in PYTHONPATH, Python imports this file at its start, also in processes that
multiprocessing spawns and that torchrun starts. The standard library and other packages stay as
they are: only modules of `PACKAGES` see a `sys`, `os` and `signal` without what Windows lacks, and
cannot import `resource`, `fcntl` and the like. For all code in the process

- a file that is open or mapped, in this process, can be neither replaced, renamed nor removed;
- folders cannot be opened, and names with `<>:"|?*` cannot be created;
- `fork` is no start method, and text is written in code page 1252 unless an encoding is given.
"""

import builtins
import io
import locale
import multiprocessing
import os
import re
import signal
import sys
import types
from multiprocessing import context

PACKAGES = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs", "app")
MISSING_MODULES = ("resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog")
#: What Python on Windows has in neither os nor signal, of what Linux has.
MISSING = {
    "os": {
        *("fork", "forkpty", "sysconf", "sched_getaffinity", "pread", "pwrite", "preadv"),
        *("register_at_fork", "getuid", "geteuid", "setuid", "getpgid", "setpgid", "killpg"),
        *("setsid", "getsid", "statvfs", "fstatvfs", "chown", "fchown", "fchmod", "mkfifo"),
        *("uname", "getloadavg", "nice", "wait", "wait3", "wait4", "waitid", "WNOHANG"),
        *("O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_SYNC", "posix_fadvise", "posix_fallocate"),
        *("posix_spawn", "sendfile", "fdatasync", "sync", "memfd_create", "getxattr", "pipe2"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT"),
        *("SIGSTOP", "SIGCONT", "alarm", "setitimer", "pause", "pthread_kill", "pthread_sigmask"),
    },
    "mmap": {"MAP_SHARED", "MAP_PRIVATE", "MAP_ANONYMOUS", "PROT_READ", "PROT_WRITE"},
    "time": {"tzset", "clock_gettime"},
    "socket": {"AF_UNIX"},
}
INSTEAD: dict = {
    "os": {"name": "nt"},
    "sys": {"platform": "win32"},
    "signal": {"SIGBREAK": signal.SIGUSR1, "CTRL_BREAK_EVENT": signal.SIGUSR1},
}


class Seen(types.ModuleType):
    """A module without some of its attributes; the others are those of the real one."""

    def __init__(self, real):
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(_real=real, **INSTEAD.get(real.__name__, {}))

    def __getattr__(self, name):
        if name in MISSING.get(self._real.__name__, ()):
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)


_seen: dict = {}
_import = builtins.__import__


def import_as_on_windows(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    ours = importer.partition(".")[0] in PACKAGES
    if ours and level == 0 and name.partition(".")[0] in MISSING_MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = _import(name, globals, locals, fromlist, level)
    if ours and level == 0 and (name in MISSING or name in INSTEAD):
        if name not in _seen:
            _seen[name] = Seen(module)
        return _seen[name]
    return module


def in_use(path):
    """Whether this process has the file at `path` open or mapped."""
    path = os.path.realpath(path)
    if os.path.isdir(path):
        return False
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == path:
                return True
        except OSError:
            continue
    with _open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return any(line.rstrip("\n").endswith(" " + path) for line in maps)


def _located(path, folder):
    if folder is not None:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
    return os.fspath(path)


def _refuse(path):
    if not isinstance(path, str | bytes | os.PathLike) or not os.path.exists(path):
        return
    # Temporary files that Windows deletes when they are closed, and what is not ours.
    caller = sys._getframe(2).f_globals.get("__name__")
    if caller != "tempfile" and in_use(path):
        raise PermissionError(13, "The process cannot access the file (it is open)", str(path))


def _checked(real, both):
    def call(source, *args, src_dir_fd=None, dst_dir_fd=None, dir_fd=None, **kwargs):
        fds = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd, "dir_fd": dir_fd}
        fds = {key: value for key, value in fds.items() if value is not None}
        _refuse(_located(source, fds.get("src_dir_fd", fds.get("dir_fd"))))
        if both:
            _refuse(_located(args[0], fds.get("dst_dir_fd")))
            _check_name(args[0])
        return real(source, *args, **fds, **kwargs)

    return call


def _check_name(path):
    if isinstance(path, str | os.PathLike) and re.search('[<>:"|?*]', os.path.basename(path)):
        raise OSError(22, "The filename, directory name, or volume label syntax is incorrect", path)


_open, _os_open, _mkdir = io.open, os.open, os.mkdir


def open_as_on_windows(file, mode="r", buffering=-1, encoding=None, *args, **kwargs):
    if set(mode) & set("wxa+"):
        _check_name(file)
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if "b" not in mode and encoding is None and not caller.startswith(("encodings", "numba")):
        encoding = "cp1252"
    return _open(file, mode, buffering, encoding, *args, **kwargs)


def os_open_as_on_windows(path, flags, *args, dir_fd=None, **kwargs):
    caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
    if caller in PACKAGES and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return _os_open(path, flags, *args, dir_fd=dir_fd, **kwargs)


def mkdir_as_on_windows(path, *args, **kwargs):
    _check_name(path)
    return _mkdir(path, *args, **kwargs)


def get_context_as_on_windows(self, method=None):
    if method in ("fork", "forkserver"):
        raise ValueError(f"cannot find context for {method!r}")
    return _get_context(self, method or "spawn")


builtins.__import__ = import_as_on_windows
os.replace, os.rename = _checked(os.replace, True), _checked(os.rename, True)
os.unlink = os.remove = _checked(os.unlink, False)
os.supports_dir_fd |= {os.unlink, os.rename}  # shutil.rmtree looks for it
os.supports_dir_fd |= {os_open_as_on_windows}
os.open, os.mkdir = os_open_as_on_windows, mkdir_as_on_windows
builtins.open = io.open = open_as_on_windows
_get_context = context.DefaultContext.get_context
context.DefaultContext.get_context = get_context_as_on_windows
multiprocessing.get_context = context._default_context.get_context
multiprocessing.set_start_method("spawn")
locale.getpreferredencoding = lambda do_setlocale=True: "cp1252"
