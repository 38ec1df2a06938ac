"""Several processes, on one or more hosts, that train one model: how they meet, agree and part.

They communicate through the coordination service of JAX, which the first process runs.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from typing import Any, NamedTuple

from dinojax.messages import quoted, why

WAIT, HEARTBEAT = 60, 20
"""Seconds to wait for the others at the start, and later for a sign of life; JAX waits for 100."""
DAY = 24 * 3_600_000
"""How long a process may work while others wait, in milliseconds."""
KEPT = 100
"""How many of the last numbers that the first process sent are kept for the others."""
STAGES = "software", "cores", "data", "folder", "start"
"""Where processes wait for each other before they train; one that fails tells the others."""


class Cluster(NamedTuple):
    """Where the processes meet, how many there are, and which of them this is, from 0."""

    coordinator: str
    """Address "HOST:PORT" of the first process, the same for all."""
    num_processes: int
    process_id: int


def make_cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Cluster | None:
    """The cluster that a user describes; None if all three are None.

    Raises:
        ValueError: some of the three are missing, or one is out of range.
    """
    if (coordinator, num_processes, process_id) == (None, None, None):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError("expected coordinator, number of processes and process id, or none")
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        expected = "coordinator: expected HOST:PORT with a port from 1 to 65,535"
        raise ValueError(f"{expected}, got {quoted(coordinator)}")
    if not 1 <= num_processes <= 4096:
        raise ValueError(f"number of processes: expected 1 to 4,096, got {num_processes:,}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process id: expected 0 to {num_processes - 1:,}, got {process_id:,}")
    return Cluster(coordinator, num_processes, process_id)


def is_recognised() -> bool:
    """Whether a launcher started this process beside others, in a way that JAX understands.

    This reads environment variables alone, as JAX itself would ask servers in some of these cases.
    A single process, such as one in a shell on a node of SLURM, does not count.
    """
    known, slurm = os.environ.keys(), ("PROCID", "LOCALID", "JOB_ID", "STEP_NODELIST")
    if all(f"SLURM_{name}" in known for name in slurm):
        return os.environ.get("SLURM_NTASKS", "1") != "1"
    if "OMPI_MCA_orte_hnp_uri" in known:
        return os.environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= known:  # Jobs with numbered pods.
        return find_spec("kubernetes") is not None
    hosts = (
        os.environ.get(f"TPU_{name}", "") for name in ("PROCESS_ADDRESSES", "WORKER_HOSTNAMES")
    )
    return any("," in each for each in hosts) and find_spec("libtpu") is not None


def join(cluster: Cluster | None = None) -> None:
    """Meet the other processes; without a `cluster`, as the launcher of these processes says.

    Call it before JAX first computes, and before `startup.start_jax`. Then `session.train`, called
    by all with the same arguments, trains one model. SIGTERM keeps its meaning, as JAX is kept from
    handling it. JAX ends this process by a signal if others do not come in time, or are lost.

    Raises:
        OSError: the port of the coordinator is in use.
        ValueError: the first process does not answer within a minute, a launcher does not say what
            JAX needs, or versions of Python, dinojax, JAX, NumPy or Optax differ.
    """
    from importlib.metadata import version

    import jax

    where: dict[str, Any] = {}
    if cluster:
        host, _, port = cluster.coordinator.rpartition(":")
        if cluster.process_id == 0:
            _check_port(int(port))
        else:
            _wait_for_port(host.strip("[]"), int(port))
        where = cluster._asdict() | {"cluster_detection_method": "deactivate"}
        where["coordinator_address"] = where.pop("coordinator")
    # XLA has no other way for CPUs to add up over processes.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    where |= {"initialization_timeout": WAIT, "shutdown_timeout_seconds": WAIT}
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, **where)
    except (LookupError, ValueError) as error:
        reason = f"JAX cannot read from their launcher where processes meet ({error!r}); "
        raise ValueError(f"{reason}give coordinator, number of processes, process id") from None
    versions = {name: version(name) for name in ("dinojax", "jax", "jaxlib", "numpy", "optax")}
    with together("software"):
        compare("software", versions | {"Python": sys.version.split()[0]})


def num_processes() -> int:
    """How many processes have joined; 1 without `join`."""
    return _state().num_processes if _has_joined() else 1


def process_id() -> int:
    """Which of them this is, from 0. The first prints and saves."""
    return _state().process_id if _has_joined() else 0


def exchange(stage: str, value: Any) -> list[Any]:
    """The `value`, as JSON has it, of each process, once all have come to this stage.

    Raises:
        ValueError: another process has given up; says why.
    """
    if (num := num_processes()) == 1:
        return [value]
    client, values = _state().client, []
    # A stage may come again, with the next run.
    turn = client.key_value_increment(f"turn/{stage}/{process_id()}", 1)
    client.key_value_set(f"{stage}/{turn}/{process_id()}", json.dumps({"value": value, "of": num}))
    for number in range(num):
        said = json.loads(client.blocking_key_value_get(f"{stage}/{turn}/{number}", DAY))
        if "failed" in said:
            raise ValueError(f"process {number} has ended: {said['failed']}")
        if said["of"] != num:
            theirs = f"process {number} expects {said['of']}"
            raise ValueError(f"expected {num} processes in all, {theirs}")
        values.append(said["value"])
    return values


def compare(stage: str, facts: Mapping[str, Any]) -> None:
    """Check that all processes know the same facts, as JSON has them.

    Raises:
        ValueError: one differs from the first process; says in what.
    """
    first, *others = exchange(stage, dict(facts))
    for number, other in enumerate(others, 1):
        for name in first | other:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"{name}: process 0 has {quoted(first.get(name))}, process {number} has "
                    f"{quoted(other.get(name))}; start all with the same software, settings, data"
                )


@contextmanager
def together(stage: str) -> Iterator[None]:
    """Have all processes do what is inside, or all fail with the same words.

    Raises:
        ValueError: another process has failed; says why.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if num_processes() > 1:
            _give_up(why(error))
        raise
    exchange(stage, None)


def make_broadcast() -> Callable[[float], float]:
    """A function of a number that returns, in all processes, what the first one gave it.

    All must call it equally often, and train in between. On one host it takes a third of a
    millisecond, a tenth of what a collective operation takes there.
    """
    if num_processes() == 1:
        return lambda number: number
    client, is_first, turns = _state().client, process_id() == 0, count()
    name = f"broadcast/{client.key_value_increment(f'broadcasts/{process_id()}', 1)}"

    def broadcast(number: float) -> float:
        turn = next(turns)
        if not is_first:
            return float(client.blocking_key_value_get(f"{name}/{turn}", DAY))
        client.key_value_set(f"{name}/{turn}", repr(number))
        # The steps that they train together keep the others from lagging so far behind.
        if turn >= KEPT:
            client.key_value_delete(f"{name}/{turn - KEPT}")
        return number

    return broadcast


def common_clock(clock: Callable[[], float]) -> Callable[[], float]:
    """The clock of the first process for all, so that they decide alike; see `make_broadcast`."""
    broadcast = make_broadcast()
    return lambda: broadcast(clock())


def make_agreement() -> Callable[[int], int]:
    """A function of a number that returns, in all processes, one that any gave it, or else 0.

    All must call it equally often, and train in between. What one process gives may be returned one
    call later. Once it has returned a number other than 0, it should not be called again.
    """
    if num_processes() == 1:
        return lambda number: number
    client, broadcast = _state().client, make_broadcast()
    name = f"wishes/{client.key_value_increment(f'agreements/{process_id()}', 1)}/"

    def agree(number: int) -> int:
        if number:
            client.key_value_set(f"{name}{process_id()}", str(number), allow_overwrite=True)
        wishes = client.key_value_dir_get(name) if process_id() == 0 else []
        return int(broadcast(int(wishes[0][1]) if wishes else 0))

    return agree


def leave() -> None:
    """Part from the others once all have come to this point."""
    import jax

    exchange("end", None)
    jax.distributed.shutdown()


def num_sharing() -> int:
    """How many of the processes run on the same cores as this one, itself included."""
    from socket import gethostname

    mine = [gethostname(), sorted(getattr(os, "sched_getaffinity", lambda _: ())(0))]
    return exchange("cores", mine).count(mine)


def _has_joined() -> bool:
    # An error at the start is not to wait until JAX is imported.
    return "jax" in sys.modules and _state().client is not None


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _give_up(reason: str) -> None:
    """Tell the others, who are still starting, why this process ends, and wait until they know."""
    client = _state().client
    with suppress(Exception):
        for stage in STAGES:
            turn = client.key_value_increment(f"turn/{stage}/{process_id()}", 1)
            key, said = f"{stage}/{turn}/{process_id()}", json.dumps({"failed": reason})
            client.key_value_set(key, said)
        client.wait_at_barrier(f"given up/{turn}", 5_000)
        # The service ends with the first process, and JAX would end the others in the same moment.
        time.sleep(process_id() == 0)


def _check_port(port: int) -> None:
    """Raise an OSError if the port is in use, at which JAX would crash."""
    import socket

    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OSError(f"port {port} of the coordinator cannot be used: {reason}") from None


def _wait_for_port(host: str, port: int) -> None:
    """Raise a ValueError if the first process does not answer in time."""
    from socket import create_connection

    end, reason = time.monotonic() + WAIT, ""
    while time.monotonic() < end:
        try:
            create_connection((host, port), timeout=10).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(0.2)
    raise ValueError(
        f"no process answers at {host}:{port} within {WAIT} s ({reason}); start process 0 there"
    )
