"""A Slurm of two nodes on this machine, for as long as a test needs it: Debian's `slurm-wlm` and `munge`, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skippy.server.postgres import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
NODES = (os.uname().nodename, f"{os.uname().nodename}-too")
"""The first has a name that resolves: there the processes of one stage meet."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")
CONFIG = """\
ClusterName=skippy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={nodes[0]},{nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]},{ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=60
"""


def why_not() -> str:
    """Why there can be no Slurm here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd starts the jobs of others, and runs as root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """The variables by which Slurm's programs find it."""
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    config = folder / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    config.write_text(CONFIG.format(folder=folder, host=os.uname().nodename, ports=ports, nodes=NODES))
    key = folder / "key"
    key.touch(mode=0o400)
    key.write_bytes(os.urandom(1024))
    # munged wants its files where nobody else can write: each has its place by an option of its own.
    places = (("socket", "munge.socket"), ("pid-file", "munge.pid"), ("log-file", "munge.log"))
    munge = [f"--{option}={folder / name}" for option, name in (*places, ("seed-file", "munge.seed"))]
    environment = {"SLURM_CONF": str(config)}
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", name] for name in NODES),
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("a") as log:
                daemons.append(
                    subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
                )
            time.sleep(1)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)


def wait_for(job: str, environment: dict[str, str], seconds: float = 300) -> list[str]:
    """The states in which a job, or each task of its array, ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = subprocess.run(
            ["scontrol", "show", "job", job], env=os.environ | environment, capture_output=True, text=True, check=True
        ).stdout  # fmt: skip
        states = [word.removeprefix("JobState=") for word in said.split() if word.startswith("JobState=")]
        if states and all(state in ENDED for state in states):
            return states
        time.sleep(1)
    raise TimeoutError(f"job {job}: {states}")
