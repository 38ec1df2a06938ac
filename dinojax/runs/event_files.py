"""The metrics of a run in event files too, as TensorBoard reads them.

The only module that needs tensorboardX.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dinojax.files import named_errors


@contextmanager
def event_file(folder: Path, step: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a line of metrics into a new event file of TensorBoard.

    What other files of the folder say of steps after `step` is void.
    """
    # Here, for it changes the environment. Not its SummaryWriter, whose thread dies by itself where
    # the disk is full.
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar

    name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
    file = folder / name

    def write(*events: Any) -> None:
        with named_errors(file, file):
            for event in events:
                records.write(event.SerializeToString())
            records.flush()

    def write_line(line: Mapping[str, Any]) -> None:
        at = {"wall_time": time.time(), "step": line["step"]}
        values = {name: line[name] for name in line if name not in ("step", "seconds")}
        write(
            *(
                Event(summary=scalar(name, value), **at)
                for name, value in values.items()
                if value is not None
            )
        )

    with named_errors(file, file):
        records = RecordWriter(str(file))
    try:
        begins = SessionLog(status=SessionLog.START)
        write(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=step + 1, session_log=begins),
        )
        yield write_line
    finally:
        # It tries again to write what it could not.
        with suppress(OSError):
            records.close()
