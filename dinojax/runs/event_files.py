"""The metrics of a run in event files, as TensorBoard reads them; needs tensorboardX."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dinojax.files import named_errors


@contextmanager
def event_file(folder: Path | str, step: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a line of metrics into a new event file.

    It overrides what other event files of the folder say about steps after `step`.

    Raises:
        OSError: the file cannot be written.
    """
    # Imported here, as the import changes the environment. The thread of tensorboardX's own
    # SummaryWriter dies silently when the disk is full.
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar

    name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
    file = Path(folder) / name

    def write(*events: Any) -> None:
        with named_errors(file, file):
            for event in events:
                records.write(event.SerializeToString())
            records.flush()

    def write_line(line: Mapping[str, Any]) -> None:
        at = {"wall_time": time.time(), "step": line["step"]}
        skipped = "step", "seconds", "training_seconds"
        values = {k: v for k, v in line.items() if k not in skipped and v is not None}
        write(*(Event(summary=scalar(name, value), **at) for name, value in values.items()))

    with named_errors(file, file):
        records = RecordWriter(str(file))
    try:
        begins, now = SessionLog(status=SessionLog.START), time.time()
        first = Event(wall_time=now, file_version="brain.Event:2")
        write(first, Event(wall_time=now, step=step + 1, session_log=begins))
        yield write_line
    finally:
        # Closing tries again to write what could not be written.
        with suppress(OSError):
            records.close()
