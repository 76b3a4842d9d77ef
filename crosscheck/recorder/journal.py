"""The segment that is being written, and the steps that wait to be written to it."""

from crosscheck.recorder.pending import Pending
from crosscheck.trace.format import TensorInfo
from crosscheck.trace.writer import SegmentWriter


class Journal:
    """Commits what waits, part by part. It holds none of the optimizer's tensors, so it can outlive them."""

    def __init__(self, writer: SegmentWriter, first_step: int) -> None:
        self.writer, self.pending = writer, Pending()
        self.tensors: tuple[TensorInfo, ...] = ()
        """All that were seen so far."""
        self.closed = False
        self.unsettled = False
        """Whether the last step's moving averages are still to be seen."""
        self.committed = first_step - 1
        """The last step that was written."""

    def commit(self) -> int:
        """Write the steps that wait as one part. Returns its bytes. Raises OSError and UnsupportedOptimizer."""
        last = self.pending.attempts[-1].step if self.pending.attempts else self.committed
        part = self.pending.take(self.tensors)
        if part is None:
            return 0
        nbytes = self.writer.write(*part)
        self.committed = last
        return nbytes

    def end(self, stopped: str | None = None) -> None:
        """Commit what waits and mark the end. `stopped`: why the recording cannot go on. Ending twice is fine."""
        if not self.closed:
            self.commit()
            self.closed = True
            self.writer.close(self.committed, stopped)

    def forget_unsettled(self) -> None:
        """Leave out the last step, if its moving averages were not seen any more."""
        if self.unsettled:
            self.pending.drop_last()
