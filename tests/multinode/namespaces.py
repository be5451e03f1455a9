"""Simulated machines, made of Linux namespaces, for tests that need several computers, ssh and a network.

Each machine has its own processes, mounts, shared memory, host name and network, so that Ray's sessions, `ray stop` and
ports do not collide with those of another machine or of a Ray on the host. It shares the host's files, except folders
into which programs write. The first machine is the user's and contains the switch that connects all machines: nothing
is added to the host's network, and the machines cannot reach it.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[2]

PROGRAMS = ("bash", "ip", "mount", "nsenter", "rsync", "ssh", "ssh-keygen", "sshd", "unshare")

KEPT = (sys.prefix, sys.base_prefix, str(REPOSITORY))
"""Folders of the host that all machines see: Python, its packages, the project."""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PREFIX = "10.199.0."
"""Prefix of the machines' addresses. They cannot collide with others, because the network is isolated."""

UNSHARE = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--ipc", "--uts", "--net")

# The folders are made elsewhere first and mounted together, because one may contain what another shows. The first
# process ends with its input, and the kernel ends the rest of the namespace with it, so no machine outlives the test.
FIRST_PROCESS = r"""
set -euo pipefail
folder=$1 name=$2 hosts=$3; shift 3
mount --bind "$hosts" /etc/hosts
while [ $# -gt 0 ]; do
    case $1 in
        cover) place=$folder/$((number = ${number:-0} + 1)); mkdir "$place"; mount -t tmpfs -o mode="$3" tmpfs "$place"
               covers+=("$place" "$2"); shift 3 ;;
        keep)  mkdir -p "$place/$3"; mount --bind "$2/$3" "$place/$3"; shift 3 ;;
    esac
done
for ((each = 0; each < ${#covers[@]}; each += 2)); do
    mount --rbind "${covers[each]}" "${covers[each + 1]}"
done
hostname "$name"
ip link set lo up
echo up
read -r _ || true
"""


def missing() -> str | None:
    """Return the reason why there can be no such machines here, or None."""
    if not sys.platform.startswith("linux"):
        return "namespaces need Linux"
    if os.geteuid() != 0:
        return "making namespaces needs root"
    absent = [program for program in PROGRAMS if not _program(program)]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: openssh-server, openssh-client, rsync, iproute2)"
    trial = "mount -t tmpfs tmpfs /mnt && ip link add name s type bridge && ip link add name v1 type veth peer name v2"
    tried = subprocess.run([*UNSHARE, "sh", "-c", trial], capture_output=True, text=True, timeout=60, check=False)
    return f"namespaces are not permitted here: {tried.stderr.strip()}" if tried.returncode else None


def _program(name: str) -> str | None:
    """Return the path of a program; sshd and ip are often not on a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def wait_until(true: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    """Wait for a condition; `what` describes the actual state if it is not met in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} seconds: {what()}"
        time.sleep(0.2)


def stop(process: subprocess.Popen) -> None:
    """End a process of `Machine.start` and its children."""
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
    raise AssertionError(f"{process.args} does not end")


@dataclass(frozen=True)
class Machine:
    """One simulated machine."""

    name: str
    address: str
    parent: subprocess.Popen
    """The process on the host that is the parent of the machine's first process."""
    first: int
    """PID of the machine's first process, as seen from the host."""
    namespace: int
    """File descriptor of the PID namespace; while it is open, no other namespace gets its number."""

    def path(self, inside: str | Path) -> Path:
        """Return the path on the host of a file of the machine; `~` is the machine's."""
        whole = Path(f"{HOME}{str(inside)[1:]}") if str(inside).startswith("~") else Path(inside)
        return Path(f"/proc/{self.first}/root") / whole.relative_to("/")

    def start(self, command: Sequence[str], output: IO | int | None = None, **environment: str) -> subprocess.Popen:
        """Start a command in the machine's home folder, with the environment of a login shell."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--uts", "--ipc", "--net", "--pid", "env", "-i"]
        given = {**login(), **environment}
        variables = [f"{name}={value}" for name, value in given.items()]
        shell = ["bash", "-c", 'cd && exec "$@"', "bash"]
        return subprocess.Popen(
            [*inside, *variables, *shell, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: Sequence[str], seconds: float = 60, **environment: str) -> tuple[int, str]:
        """Run a command in the machine and return its exit code and output."""
        # To a file, because daemons that a command starts would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            process = self.start(command, output.fileno(), **environment)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                stop(process)
                code = None
            output.seek(0)
            written = output.read()
        assert code is not None, f"{self.name}: {' '.join(command)}: no end after {seconds:g} seconds:\n{written}"
        return code, written

    def must(self, command: Sequence[str], seconds: float = 60, **environment: str) -> str:
        """Run a command that must succeed, and return its output."""
        code, written = self.run(command, seconds, **environment)
        assert code == 0, f"{self.name}: {' '.join(command)}: exit code {code}:\n{written}"
        return written

    def processes(self) -> list[str]:
        """Return the command lines of the machine's processes without the first one; empty if the machine is lost."""
        own = os.fstat(self.namespace).st_ino
        lines = {number: line for number, line in _command_lines() if _namespace(number) == own}
        return [line for number, line in lines.items() if number != self.first]

    def lose(self) -> None:
        """Switch the machine off: kill its first process, and with it, by the kernel, all others."""
        os.kill(self.first, signal.SIGKILL)
        self.parent.wait(30)

    def end(self) -> None:
        """Switch the machine off if it is on, and wait until all of its processes have ended."""
        self.parent.stdin.close()
        try:
            self.parent.wait(10)
        except subprocess.TimeoutExpired:
            self.parent.kill()
            self.parent.wait(10)
        wait_until(lambda: not self.processes(), 30, lambda: f"{self.name}: {self.processes()}")
        os.close(self.namespace)


HOME = pwd.getpwuid(os.getuid()).pw_dir


def login() -> dict[str, str]:
    """Return the environment of a user who has just logged in."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return {"HOME": HOME, "USER": user, "LOGNAME": user, "PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "SHELL": "/bin/bash"}


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            # Kernel threads and zombies have none.
            if line:
                yield int(entry.name), line


def _namespace(number: int) -> int | None:
    try:
        return os.stat(f"/proc/{number}/ns/pid").st_ino
    except OSError:
        return None


def _covers() -> dict[str, str]:
    """Return the folders that each machine has for itself, and their modes."""
    temporary = {tempfile.gettempdir(): "1777", "/tmp": "1777", "/var/tmp": "1777", "/dev/shm": "1777"}
    found = {**temporary, HOME: "700", "/run": "755", "/opt": "755"}
    real = {os.path.realpath(folder): mode for folder, mode in found.items()}
    return {folder: mode for folder, mode in real.items() if not any(_within(folder, other) for other in real)}


def _within(folder: str, other: str) -> bool:
    return folder != other and Path(folder).is_relative_to(other)


def _arguments(shared: Path) -> list[str]:
    """Return the arguments of FIRST_PROCESS: folders to cover, and what stays visible in them."""
    kept = {os.path.realpath(place) for place in (*KEPT, shared)}
    arguments = []
    # The folder that contains `shared` is last: once it is covered, the working folder beside it is not visible.
    for folder, mode in sorted(_covers().items(), key=lambda each: _within(os.path.realpath(shared), each[0])):
        arguments += ["cover", folder, mode]
        for place in sorted(kept):
            if _within(place, folder):
                arguments += ["keep", folder, os.path.relpath(place, folder)]
    return arguments


def _switch_on(work: Path, shared: Path, name: str, address: str) -> Machine:
    (work / name).mkdir()
    places = [str(work / name), name, str(work / "hosts")]
    parent = subprocess.Popen(
        [*UNSHARE, "bash", "-c", FIRST_PROCESS, "first", *places, *_arguments(shared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    line = parent.stdout.readline()
    if line != "up\n":
        parent.kill()
        raise AssertionError(f"{name} did not come up: {line}{parent.stdout.read()}")
    first = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    return Machine(name, address, parent, first, os.open(f"/proc/{first}/ns/pid", os.O_RDONLY))


def _plug_in(machine: Machine, switch: Machine) -> None:
    """Connect a machine to the switch, which is in the user's machine."""
    cable = f"to-{machine.name}"
    ends = ["type", "veth", "peer", "name", "eth0", "netns", str(machine.first)]
    # From the host, because the PID is the host's; only the network is the switch's.
    inside = ["nsenter", "--target", str(switch.first), "--net"]
    subprocess.run([*inside, "ip", "link", "add", "name", cable, *ends], check=True, timeout=30)
    switch.must(["ip", "link", "set", cable, "master", "switch", "up"])
    machine.must(["ip", "address", "add", f"{machine.address}/24", "dev", "eth0"])
    machine.must(["ip", "link", "set", "eth0", "up"])
    # Programs take the address of the default route as their own.
    machine.must(["ip", "route", "add", "default", "via", switch.address])


def _serve_ssh(machine: Machine, public_key: str) -> None:
    """Start an ssh server that accepts one key."""
    folder = machine.path("~/.ssh")
    folder.mkdir(mode=0o700)
    (folder / "authorized_keys").write_text(public_key)
    machine.path("/run/sshd").mkdir()
    machine.must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/.ssh/host_key"])
    options = {
        "ListenAddress": machine.address,
        "HostKey": f"{HOME}/.ssh/host_key",
        "PidFile": "none",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        # `ray up` opens many connections at a time.
        "MaxStartups": "100",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    machine.must([_program("sshd"), "-f", f"{HOME}/.ssh/sshd_config", "-E", "/tmp/sshd.log"])


@dataclass(frozen=True)
class Lan:
    """Machines on one switch. The user's key, `~/.ssh/id_ed25519`, gives access to all others."""

    user: Machine
    others: tuple[Machine, ...]
    shared: Path
    """A folder that all machines see under the same path."""


@contextlib.contextmanager
def lan(folder: Path, names: Sequence[str], bashrc: Mapping[str, str] | None = None) -> Iterator[Lan]:
    """Start machines of these names and one for the user, and end all of them with the `with` block.

    Args:
        folder: An empty folder, for files that the machines share.
        names: Host names.
        bashrc: Contents of `~/.bashrc` by host name.
    """
    shared, machines = folder / "shared", []
    shared.mkdir()
    addresses = {name: f"{PREFIX}{number}" for number, name in enumerate(("user", *names), start=1)}
    with tempfile.TemporaryDirectory(prefix="lan-", dir=folder) as work:
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        Path(work, "hosts").write_text("".join(f"{line}\n" for line in hosts))
        try:
            for name, address in addresses.items():
                machines.append(_switch_on(Path(work), shared, name, address))
            _connect(machines, bashrc or {})
            yield Lan(machines[0], tuple(machines[1:]), shared)
        finally:
            for machine in reversed(machines):
                machine.end()


def _connect(machines: Sequence[Machine], bashrc: Mapping[str, str]) -> None:
    user, *others = machines
    user.must(["ip", "link", "add", "name", "switch", "type", "bridge"])
    user.must(["ip", "address", "add", f"{user.address}/24", "dev", "switch"])
    user.must(["ip", "link", "set", "switch", "up"])
    # Other addresses are refused at once; otherwise programs would wait for an answer.
    user.must(["ip", "route", "add", "unreachable", "default"])
    user.must(["bash", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    user.path("~/.ssh").mkdir(mode=0o700)
    user.must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/.ssh/id_ed25519"])
    key = user.path("~/.ssh/id_ed25519.pub").read_text()
    for machine in machines:
        machine.path("~/.bashrc").write_text(bashrc.get(machine.name, ""))
    for machine in others:
        _plug_in(machine, user)
        _serve_ssh(machine, key)
