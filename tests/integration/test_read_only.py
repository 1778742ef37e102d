"""As in a container with a read-only root: process 1, user 1000, no capabilities, nothing executable in /tmp.

A stand-in for `docker run --read-only`: namespaces by util-linux, and the packages of this machine.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_server import ROOT, TUBELET

from tubelet.preprocess.canary import canary_video

pytestmark = pytest.mark.needs_triton

ENTER = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c"]

MOUNTS = """
# $1 the folder to work in, $2 that of the project: where it lies in the old /tmp, it is put into the new one
mount --make-rprivate /
mount --bind "$1" /mnt
mount --bind "$2" /media
mount -t proc proc /proc
for folder in /mnt /media /; do mount -o remount,bind,ro "$folder"; done
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m tmpfs /tmp
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=1g tmpfs /dev/shm
case "$2" in /tmp/*) mkdir -p "$2"; mount --bind /media "$2" ;; esac
cd /mnt
shift 2
exec unshare --user --map-user=1000 --map-group=1000 setpriv --no-new-privs --inh-caps=-all env TMPDIR=/tmp "$@"
"""

CALLER = """
import os, signal, sys
from pathlib import Path
from tubelet.clients import VideoClassifier
from tubelet.spec.errors import TubeletError

assert os.getuid() == 1000
assert "CapEff:\\t0000000000000000" in Path("/proc/self/status").read_text()
for folder in ("/mnt", str(Path.home()), sys.prefix, "/usr", "/var"):
    try:
        Path(folder, "tubelet_was_here").touch()
    except OSError:
        continue
    raise AssertionError(f"{folder} can be written")

def processes():
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            yield int(folder.name), state, (folder / "cmdline").read_bytes()
        except OSError:
            continue

video = Path("/mnt/clip.mp4").read_bytes()
with VideoClassifier(os.environ["TUBELET_URL"], model="motion") as classifier:
    logits = classifier.classify(video).logits
    stub = next(pid for pid, _, command in processes() if b"backend_stub" in command and b"/motion_units/" in command)
    os.kill(stub, signal.SIGKILL)
    answer = None
    while answer is None:
        try:
            answer = classifier.classify(video)
        except TubeletError:
            pass
    assert (answer.logits == logits).all()
while any(state == "Z" for _, state, _ in processes()):
    pass
for folder, folders, files in os.walk("/tmp"):
    folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
    assert all(os.path.islink(os.path.join(folder, name)) or name.endswith(".pyc") for name in files), files
"""


def test_it_serves_heals_and_leaves_no_dead_processes(repository: Path, tmp_path: Path) -> None:
    if subprocess.run([*ENTER, "mount --make-rprivate /"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make namespaces")
    shutil.copytree(repository, tmp_path / "model_repository")
    (tmp_path / "clip.mp4").write_bytes(canary_video())
    (tmp_path / "caller.py").write_text(CALLER)
    ports = [f"--{kind}-port=0" for kind in ("http", "grpc", "metrics")]
    command = [str(TUBELET), "serve", *ports, "--", sys.executable, "caller.py"]
    done = subprocess.run([*ENTER, MOUNTS, "sh", str(tmp_path), str(ROOT), *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lost a Python backend; starting again" in done.stderr
