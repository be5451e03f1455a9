"""Machines that are namespaces of this one: what needs several computers, ssh and a network, on one and without one.

Each machine has processes, mounts, shared memory, a name and a network of its own, so that Ray's sessions, its
`ray stop` and its ports do not meet those of another machine or of a Ray that runs on the host. Its files are the
host's but for those folders in which programs leave what is theirs. The first machine is the user's own and holds the
switch between all of them: nothing is added to the host's network, and nothing leads out of theirs.
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
"""Folders that all machines have, wherever they lie: Python, its packages, the project."""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PREFIX = "10.199.0."
"""Addresses of the machines; they meet no others, for neither the host's network nor another test's reaches theirs."""

UNSHARE = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--ipc", "--uts", "--net")

# The folders are made beside their places, and put there together: one of them may hold what is to show in another. The
# first process ends when its input does, so that no machine outlives the test, and with it all others of its namespace.
FIRST_PROCESS = r"""
set -euo pipefail
room=$1 name=$2 hosts=$3; shift 3
mount --bind "$hosts" /etc/hosts
while [ $# -gt 0 ]; do
    case $1 in
        cover) place=$room/$((number = ${number:-0} + 1)); mkdir "$place"; mount -t tmpfs -o mode="$3" tmpfs "$place"
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
    """Why there can be no such machines here, or None."""
    if not sys.platform.startswith("linux"):
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "making namespaces and mounting in them takes the rights of root"
    absent = [program for program in PROGRAMS if not _program(program)]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: openssh-server, openssh-client, rsync, iproute2)"
    trial = "mount -t tmpfs tmpfs /mnt && ip link add name s type bridge && ip link add name v1 type veth peer name v2"
    tried = subprocess.run([*UNSHARE, "sh", "-c", trial], capture_output=True, text=True, timeout=60, check=False)
    return f"this machine permits no namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _program(name: str) -> str | None:
    """Where a program is; sshd and ip are often beyond a user's own path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def wait_until(true: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    """Wait for a condition; `what` says in the failure what is instead."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} seconds: {what()}"
        time.sleep(0.2)


def stop(process: subprocess.Popen) -> None:
    """End what `Machine.start` started, with all that it has started itself in the machine."""
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
    raise AssertionError(f"{process.args} does not end")


@dataclass(frozen=True)
class Machine:
    """One machine. Its files are under `path`, its commands are run by `run` and `start`."""

    name: str
    address: str
    keeper: subprocess.Popen
    """the process outside whose child is the machine's first"""
    first: int
    """the number of that child, as seen from outside"""
    namespace: int
    """an open file that stands for that of its processes: while it is open, no other namespace gets its number"""

    def path(self, inside: str | Path) -> Path:
        """One of the machine's files, as seen from outside; `~` is its own."""
        whole = Path(f"{HOME}{str(inside)[1:]}") if str(inside).startswith("~") else Path(inside)
        return Path(f"/proc/{self.first}/root") / whole.relative_to("/")

    def start(self, command: Sequence[str], output: IO | int | None = None, **environment: str) -> subprocess.Popen:
        """Start a command in the machine, in the home folder, with no more of the environment than a login gives."""
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
        """Run a command in the machine to its end; returns its exit code and all that it wrote."""
        # To a file: daemons that a command leaves behind would hold a pipe open.
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
        """`run` what may not fail."""
        code, written = self.run(command, seconds, **environment)
        assert code == 0, f"{self.name}: {' '.join(command)}: exit code {code}:\n{written}"
        return written

    def processes(self) -> list[str]:
        """The command lines of all that runs in the machine but for its first process; empty if it is lost."""
        own = os.fstat(self.namespace).st_ino
        lines = {number: line for number, line in _command_lines() if _namespace(number) == own}
        return [line for number, line in lines.items() if number != self.first]

    def lose(self) -> None:
        """Switch the machine off: its first process is killed, and the kernel kills all others with it."""
        os.kill(self.first, signal.SIGKILL)
        self.keeper.wait(30)

    def end(self) -> None:
        """Switch it off if it is still on, and wait until nothing of it is left."""
        self.keeper.stdin.close()
        try:
            self.keeper.wait(10)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait(10)
        wait_until(lambda: not self.processes(), 30, lambda: f"{self.name}: {self.processes()}")
        os.close(self.namespace)


HOME = pwd.getpwuid(os.getuid()).pw_dir


def login() -> dict[str, str]:
    """The environment that a user has who has just logged in."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return {"HOME": HOME, "USER": user, "LOGNAME": user, "PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "SHELL": "/bin/bash"}


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            # Threads of the kernel and processes that have ended have none.
            if line:
                yield int(entry.name), line


def _namespace(number: int) -> int | None:
    try:
        return os.stat(f"/proc/{number}/ns/pid").st_ino
    except OSError:
        return None


def _covers() -> dict[str, str]:
    """Folders that are a machine's own, and their modes."""
    temporary = {tempfile.gettempdir(): "1777", "/tmp": "1777", "/var/tmp": "1777", "/dev/shm": "1777"}
    found = {**temporary, HOME: "700", "/run": "755", "/opt": "755"}
    real = {os.path.realpath(folder): mode for folder, mode in found.items()}
    return {folder: mode for folder, mode in real.items() if not any(_within(folder, other) for other in real)}


def _within(folder: str, other: str) -> bool:
    return folder != other and Path(folder).is_relative_to(other)


def _arguments(shared: Path) -> list[str]:
    """What FIRST_PROCESS is to cover, and what of it stays."""
    kept = {os.path.realpath(place) for place in (*KEPT, shared)}
    arguments = []
    # Last the one that holds `shared` and the room beside it: once it is covered, the room cannot be seen.
    for folder, mode in sorted(_covers().items(), key=lambda each: _within(os.path.realpath(shared), each[0])):
        arguments += ["cover", folder, mode]
        for place in sorted(kept):
            if _within(place, folder):
                arguments += ["keep", folder, os.path.relpath(place, folder)]
    return arguments


def _switch_on(room: Path, shared: Path, name: str, address: str) -> Machine:
    (room / name).mkdir()
    places = [str(room / name), name, str(room / "hosts")]
    keeper = subprocess.Popen(
        [*UNSHARE, "bash", "-c", FIRST_PROCESS, "first", *places, *_arguments(shared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = keeper.stdout.readline()
    if said != "up\n":
        keeper.kill()
        raise AssertionError(f"{name} did not come up: {said}{keeper.stdout.read()}")
    first = int(Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text())
    return Machine(name, address, keeper, first, os.open(f"/proc/{first}/ns/pid", os.O_RDONLY))


def _plug_in(machine: Machine, switch: Machine) -> None:
    """A cable from a machine to the switch, which is in the user's."""
    cable = f"to-{machine.name}"
    ends = ["type", "veth", "peer", "name", "eth0", "netns", str(machine.first)]
    # From outside, for the machine's number is the host's; only the network is the switch's.
    inside = ["nsenter", "--target", str(switch.first), "--net"]
    subprocess.run([*inside, "ip", "link", "add", "name", cable, *ends], check=True, timeout=30)
    switch.must(["ip", "link", "set", cable, "master", "switch", "up"])
    machine.must(["ip", "address", "add", f"{machine.address}/24", "dev", "eth0"])
    machine.must(["ip", "link", "set", "eth0", "up"])
    # Which of its addresses others know, a program learns from the way out.
    machine.must(["ip", "route", "add", "default", "via", switch.address])


def _serve_ssh(machine: Machine, public_key: str) -> None:
    """An ssh server of its own that lets one key in."""
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
    """Some machines on one switch. The key of the user's, `~/.ssh/id_ed25519`, opens all others."""

    user: Machine
    others: tuple[Machine, ...]
    shared: Path
    """a folder that all machines have, at the same place"""


@contextlib.contextmanager
def lan(folder: Path, names: Sequence[str], bashrc: Mapping[str, str] | None = None) -> Iterator[Lan]:
    """Machines of these names and one for the user, all ended on leaving, whatever happened.

    Args:
        folder: an empty one, for what the machines share.
        bashrc: `~/.bashrc` by the name of a machine.
    """
    shared, machines = folder / "shared", []
    shared.mkdir()
    addresses = {name: f"{PREFIX}{number}" for number, name in enumerate(("user", *names), start=1)}
    with tempfile.TemporaryDirectory(prefix="lan-", dir=folder) as room:
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        Path(room, "hosts").write_text("".join(f"{line}\n" for line in hosts))
        try:
            for name, address in addresses.items():
                machines.append(_switch_on(Path(room), shared, name, address))
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
    # What is meant for elsewhere is refused at once, for there is no way on; else programs would wait for an answer.
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
