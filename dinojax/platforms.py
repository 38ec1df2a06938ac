"""Choices that depend on the platform JAX computes on, each with what was measured behind it."""


def replica_processes(platform: str, num: int, num_cores: int) -> int:
    """How many processes train `num` replicas of a sweep, each one after the other; 1 for this one.

    On a CPU each core trains whole replicas, and none waits for another. An accelerator belongs to
    one process.
    """
    return max(1, min(num, num_cores)) if platform == "cpu" else 1
