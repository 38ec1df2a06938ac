"""How JAX uses the machine: for programs to set before JAX first computes."""

import os


def set_cpu_flags() -> None:
    """Let XLA compile small loops on the CPU into one kernel each, unless the user has chosen.

    In the exercise's recipe the loops over the characters of a name become 1.5 times as fast. The
    bound, in bytes that a loop carries, takes these in and leaves out the loop over training steps,
    whose larger matrix products are faster outside a single kernel.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        option = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=65536"
        os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()
