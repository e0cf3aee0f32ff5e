"""PID 1 of a container: forked, never exec'ed; reaps, forwards signals, exits as the workload did.

Facts:
* A signal sent to PID 1 of a namespace is ignored unless it is blocked or handled: all are blocked
  before the workload is forked, and taken one at a time by sigwaitinfo(2).
* Orphans of the namespace become children of PID 1 (pid_namespaces(7)); when it exits, the kernel
  kills whatever is left.
* Every object that this loop touches costs a private page: it touches few.
"""

from __future__ import annotations

import os
import signal

# Sent by the kernel for a fault of the process itself: to block them would only hide the fault.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
SIGNALS = tuple(int(signum) for signum in signal.valid_signals() - _FAULTS)


def reap(workload: int) -> int | None:
    """Collect every dead child; the workload's exit status (128+n for signal n) once it is one."""
    status = None
    while True:
        try:
            pid, waited = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == workload:
            code = os.waitstatus_to_exitcode(waited)
            status = code if code >= 0 else 128 - code


def run(workload: int) -> int:
    """Be init until the workload ends; returns its exit status."""
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGCHLD:
            status = reap(workload)
            if status is not None:
                return status
        else:
            forward(workload, received.si_signo)


def forward(workload: int, signum: int) -> None:
    """Pass a signal on; the workload may be a zombie already."""
    try:
        os.kill(workload, signum)
    except ProcessLookupError:
        return
