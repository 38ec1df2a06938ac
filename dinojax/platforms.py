"""Choices that depend on the platform JAX computes on, each with what was measured behind it."""


def stack_size(platform: str, num: int, most: int) -> int:
    """How many of `num` replicas of one run are stacked at once, if memory holds `most` of them.

    1 stands for none: each is trained by itself, in processes beside each other. Stacks are of
    equal size up to one, so that few programs are compiled.

    On a CPU replicas are not stacked. There one core trains MEASURED. On an accelerator a small
    network leaves most of the device idle, and the time of a step hardly grows with the stack.
    """
    if platform == "cpu":
        return 1
    return -(-num // -(-num // max(1, min(num, most))))


def replica_processes(platform: str, num: int, num_cores: int) -> int:
    """How many processes train `num` replicas of a sweep, each one after the other; 1 for this one.

    On a CPU each core trains whole replicas, and none waits for another. An accelerator belongs to
    one process.
    """
    return max(1, min(num, num_cores)) if platform == "cpu" else 1
