"""Choices that depend on the platform JAX computes on, each with what was measured behind it."""

from collections.abc import Callable
from typing import Any


def stack_size(platform: str, num: int, most: int) -> int:
    """How many of `num` replicas of one run are stacked at once, if memory holds `most` of them.

    1 means that none is: each is trained by itself, in processes side by side. The sizes of stacks
    differ by up to one, so that few programs are compiled.

    On a CPU replicas are not stacked: their weights together do not fit into the first caches, and
    XLA does not compute products of batches by its fast routines. Replica-steps a second of a
    stack, as a share of those of one run alone, on a core of a shared AMD EPYC (medians of rounds
    that took turns, JAX 0.10.2): 64 of the exercise 1.0, 1,024 of it 0.55, 8 of the preset `names`
    with a layer of 64 units 0.06, 4 of it as it is, but without dropout, 0.34. On an accelerator,
    where a small network leaves most of the device idle, they are stacked, which has not been
    measured here.
    """
    if platform == "cpu":
        return 1
    return -(-num // -(-num // max(1, min(num, most))))


SECONDS_TO_START, SECONDS_PER_REPLICA, OPERATIONS_PER_SECOND = 1.1, 0.2, 2e10
"""What a process of a sweep takes to start, a replica besides its steps, and a core's rate."""


def replica_processes(platform: str, num: int, num_cores: int, operations: float) -> int:
    """How many processes train `num` replicas of a sweep, each one after the other; 1 for this one.

    On a CPU each core trains whole replicas, and none waits for another, unless they take so few
    floating-point `operations` in all that the processes would not have started in time. An
    accelerator belongs to one process.

    In seconds of processor time of an AMD EPYC (Zen 5, JAX 0.10.2), one process on one core and two
    on two, starts included (the machine had other work, so that no wall time counts): 4 replicas of
    `names`, of 200 steps, 39 to 47 and 46; 4 of `text`, of 100 steps, 20 and 21; 6 of `dinos`, 6.1
    to 6.9 and 9.3, of which the two starts are 2.2.
    """
    if platform != "cpu":
        return 1
    processes = max(1, min(num, num_cores))
    alone = num * SECONDS_PER_REPLICA + operations / OPERATIONS_PER_SECOND
    return processes if alone * (1 - 1 / processes) > SECONDS_TO_START else 1


def recurrence(setting: str, platform: str) -> str:
    """How a cell runs along time in training: `loop` or `fused`, by the setting of that name.

    "auto" is the loop everywhere. The fused kernel computes what the loop does where JAX interprets
    it on a CPU, and for up to 256 units it compiles for an H100 without spilled registers. It has
    not been run on a GPU; "auto" may choose it only for shapes for which it was found to be faster.

    Raises:
        ValueError: the kernel cannot run on this platform.
    """
    if setting == "fused" and platform != "gpu":
        raise ValueError(
            f"recurrence: the fused kernel needs an NVIDIA GPU, but JAX computes on a {platform}; "
            "choose auto or loop"
        )
    return "loop" if setting == "auto" else setting


def linear_recurrence(
    *arrays: Any, sequential: Callable[..., Any], parallel: Callable[..., Any]
) -> Any:
    """What `sequential(*arrays)` and `parallel(*arrays)` compute, by the one that suits the device.

    Both run a linear recurrence over time. The choice is made when a program is compiled, for the
    platform that it is compiled for: `sequential` on a CPU, `parallel` elsewhere.

    On two cores of an AMD EPYC (JAX 0.10.2), 64 steps of 64 rows of 256 features took 0.45 ms by
    `lax.scan`, 1.4 ms by `lax.associative_scan`, 1.4 ms by a scan unrolled four times and 2.2 ms by
    blocks of eight steps written out; 1,024 steps took 22, 108, 37 and 42 ms. It was not measured
    elsewhere. There each step of a loop costs several microseconds of launches, and the associative
    scan has about 2 log2(n) rounds in place of n steps.
    """
    # Imported here, as other choices are made before JAX is imported.
    from jax import lax

    return lax.platform_dependent(*arrays, cpu=sequential, default=parallel)
