"""What programs send to the network: watches their system calls, also those of native libraries and children."""

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_CALLS = "connect,sendto,sendmsg,sendmmsg"
_PORT = re.compile(r"sin6?_port=htons\((\d+)\)")
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
#: Variables that tests and continuous integration set, and that would silence the traffic that tests look for.
_QUIETENING = ("PREFECT_", "NELBO_", "DO_NOT_TRACK", "ORT_", "CI", "GITHUB_", "BUILDKITE", "JENKINS_")


def watching(log: Path) -> list[str]:
    """The prefix of a command line to watch; the test is skipped where strace is missing (.ci/run installs it)."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed (Debian package strace)")
    # With a filter in the kernel, only the traced calls stop the process.
    return [found, "-f", "--seccomp-bpf", "-qq", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log)]


def loud() -> dict[str, str]:
    """The environment of a user who has switched nothing off."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_QUIETENING)}


def outgoing(log: Path) -> list[str]:
    """Calls that connect to another machine, or look up a name in the DNS."""
    return [line for line in log.read_text(errors="replace").splitlines() if _leads_out(line)]


def _leads_out(call: str) -> bool:
    address, port = _ADDRESS.search(call), _PORT.search(call)
    if address is None:
        return False
    # A resolver on this machine forwards to other machines.
    return not ipaddress.ip_address(address[1] or address[2]).is_loopback or (port is not None and port[1] == "53")


def run_watched(log: Path, *command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and log its network calls."""
    line = [*watching(log), *map(str, command)]
    return subprocess.run(line, cwd=cwd, env=loud() | environment, capture_output=True, text=True, check=False)
