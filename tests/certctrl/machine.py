"""A machine that boots a real systemd as process 1, in its own namespaces, over this machine's
files.

Nothing that it writes is kept, because `/` is an overlay in memory. It has only its own loopback
network and the usual devices. It needs root, a cgroup2 and Linux overlays.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from certctrl.supervisor import bound_to
from tests.patience import LIMIT, until

SYSTEMD = Path("/lib/systemd/systemd")
# What would reach out of the namespaces, or wait for hardware.
MASKED = (
    *(
        "systemd-sysctl.service",
        "systemd-binfmt.service",
        "systemd-modules-load.service",
        "systemd-remount-fs.service",
    ),
    *("systemd-tmpfiles-setup-dev.service", "systemd-random-seed.service", "systemd-udevd.service"),
    *(
        "systemd-udev-trigger.service",
        "systemd-logind.service",
        "systemd-repart.service",
        "systemd-firstboot.service",
    ),
    *(
        "systemd-machine-id-commit.service",
        "systemd-update-utmp.service",
        "kmod-static-nodes.service",
        "tmp.mount",
    ),
    *(
        "proc-sys-fs-binfmt_misc.automount",
        "dev-hugepages.mount",
        "dev-mqueue.mount",
        "getty.target",
    ),
    *("sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "systemd-networkd.service", "systemd-ask-password-console.path"),
)
UP = ("initializing", "starting", "running", "degraded")
# $1: a folder; in it `mounts` (source and target, a line each), `files` (a tree that is laid over
# /) and `setup`.
ENTER = r"""
set -eu
cd "$1"
mount --make-rprivate /
mkdir memory
mount -t tmpfs -o mode=755 tmpfs memory
mkdir memory/upper memory/work memory/root
mount -t overlay overlay -o "lowerdir=/,upperdir=memory/upper,workdir=memory/work" memory/root
root=$PWD/memory/root
mount -t proc proc $root/proc
mount -t sysfs -o ro sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/dev
for each in null zero full random urandom tty; do
  touch $root/dev/$each; mount --bind /dev/$each $root/dev/$each
done
mkdir $root/dev/shm $root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx; ln -s /proc/self/fd $root/dev/fd
touch console; touch $root/dev/console; mount --bind console $root/dev/console
while read -r source target; do
  mkdir -p "$root$target"; mount --bind "$source" "$root$target"
done < mounts
mount -t tmpfs -o mode=755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
rm -rf $root/etc/systemd/system
cp -rT --no-preserve=ownership files $root
# Without a machine id, every installed service is enabled.
echo 0123456789abcdef0123456789abcdef > $root/etc/machine-id
rm -rf $root/usr/lib/systemd/system-generators
cp setup $root/run/setup
mkdir $root/run/old
cd $root
pivot_root . run/old
umount -l /run/old
sh -eu /run/setup
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  "$2" --system --log-target=journal-or-kmsg --show-status=no systemd.unit=multi-user.target \
  </dev/null >/dev/null 2>&1
"""


def cgroup2() -> Path | None:
    """Return the folder of our own cgroup in the unified hierarchy."""
    places = [
        line.split()[1]
        for line in Path("/proc/mounts").read_text().splitlines()
        if " cgroup2 " in line
    ]
    own = [
        line[3:]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    ]
    return Path(places[0] + own[0]) if places and own else None


def missing() -> str:
    """Return why no machine can be booted here, or ""."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "needs Linux and root"
    lacking = [
        program for program in ("unshare", "nsenter", "systemctl") if not shutil.which(program)
    ]
    if lacking or not SYSTEMD.exists():
        return f"needs systemd and util-linux: {' '.join(lacking) or SYSTEMD}"
    place = cgroup2()
    if place is None or not os.access(place, os.W_OK):
        return "needs a cgroup2 that may be written"
    probe = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--net", "--ipc", "--uts", "true"]
    allowed = subprocess.run(probe, capture_output=True, text=True)
    return (
        "" if allowed.returncode == 0 else f"namespaces are not allowed: {allowed.stderr.strip()}"
    )


class Machine:
    """`mounts` are folders of this machine by their place in the booted one.

    `files` are the contents of files. `setup` is a script that runs before systemd.
    """

    def __init__(
        self, folder: Path, mounts: dict[str, Path], files: dict[str, str], setup: str = ""
    ) -> None:
        self.folder = folder
        for unit in MASKED:
            place = folder / "files/etc/systemd/system" / unit
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to("/dev/null")
        for name, content in files.items():
            place = folder / "files" / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        (folder / "mounts").write_text(
            "".join(f"{source} {target}\n" for target, source in mounts.items())
        )
        (folder / "setup").write_text(setup)
        (folder / "enter").write_text(ENTER)

    def boot(self) -> None:
        place = cgroup2()
        assert place
        self.cgroup = place / f"certctrl-test-{os.getpid()}"
        self.cgroup.mkdir(exist_ok=True)
        unshare = "exec unshare --fork --kill-child --mount --pid --cgroup --net --ipc --uts"
        with (self.folder / "enter.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "sh",
                    "-euc",
                    f'echo $$ > {self.cgroup}/cgroup.procs; {unshare} sh "$1/enter" "$1" {SYSTEMD}',
                    "sh",
                    self.folder,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=bound_to(os.getpid()),
            )
        until(
            lambda: self.process.poll() is not None or self.call("is-system-running") in UP,
            "systemd answers",
        )
        assert self.process.poll() is None, (self.folder / "enter.log").read_text()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine."""
        pid = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not pid:
            return NOTHING
        inside = [
            "nsenter",
            "-t",
            pid[0],
            "-a",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            *command,
        ]
        return subprocess.run(inside, capture_output=True, text=True, timeout=LIMIT)

    def call(self, *arguments: str) -> str:
        """Return the output of systemctl."""
        return self.run("systemctl", "--no-pager", *arguments).stdout.strip()

    def state(self, *units: str) -> list[str]:
        return self.call("is-active", *units).split()

    def shows(self, unit: str, name: str) -> str:
        return self.call("show", "--value", "-p", name, unit)

    def journal(self, *arguments: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", *arguments).stdout

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

        def gone() -> bool:
            with contextlib.suppress(OSError):
                for each in sorted(self.cgroup.rglob("*/"), reverse=True):
                    each.rmdir()
                self.cgroup.rmdir()
            return not self.cgroup.exists()

        until(gone, "the machine's cgroup is empty")


NOTHING = subprocess.CompletedProcess[str]([], 1, "", "")
