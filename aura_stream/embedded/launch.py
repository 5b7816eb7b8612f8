"""Becomes another program, after tying it to its parent or leaving root. Run as a script; standard library only.

    python -I -S launch.py [--tied PARENT_PID] [--user NAME] -- PROGRAM ARGUMENT...

A separate program rather than a hook between fork and exec, because such hooks can deadlock in a process that has
threads (an event loop, a test runner). The pid stays the same.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _tie(libc: ctypes.CDLL, parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request was made
        os.kill(os.getpid(), signal.SIGKILL)


def _leave_root(libc: ctypes.CDLL, name: str) -> None:
    """Become user ``name``, keeping only the right to read and enter directories.

    Postgres refuses to run as root, and the venv and the data directory may lie below directories that only root may
    enter. Keeping that one right is gentler than opening those directories to everyone.
    """
    user = pwd.getpwnam(name)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    # access(2), by which initdb looks for its own programs, forgets capabilities unless this says otherwise.
    libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    # Containers often lack the first; the second is the next smallest that lets it through closed directories.
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        header = _Header(_CAPABILITY_VERSION_3, 0)
        data = (_Data * 2)()
        data[0] = _Data(1 << capability, 1 << capability, 1 << capability)
        if libc.capset(ctypes.byref(header), ctypes.byref(data)) == 0:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)
            break


def main(arguments: list[str]) -> None:
    """Do what the options say, then become the program after ``--``."""
    split = arguments.index("--")
    options = dict(zip(arguments[:split:2], arguments[1:split:2], strict=True))
    libc = ctypes.CDLL(None, use_errno=True)
    if "--user" in options:
        _leave_root(libc, options["--user"])
    if "--tied" in options:  # after the change of user, which would clear it
        _tie(libc, int(options["--tied"]))
    program = arguments[split + 1 :]
    try:
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot run {program[0]}: {error}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
