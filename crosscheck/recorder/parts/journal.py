"""Writes a segment of the trace, and holds the steps that wait to be written to it."""

import contextlib
import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

from crosscheck.recorder.parts.pending import Pending
from crosscheck.trace.format import TensorInfo
from crosscheck.trace.writer import SegmentWriter


class Journal:
    """Commits what waits, part by part. It holds none of the optimizer's tensors, so it can outlive them.

    A small part that nobody waits for is hashed, written and synced by a thread while training goes on. The next commit first
    waits for it and raises what it raised.

    In a process that is forked off the journal is closed: the trace is the parent's, and so is the thread.
    """

    def __init__(self, writer: SegmentWriter, first_step: int) -> None:
        self.writer, self.pending = writer, Pending()
        self.tensors: tuple[TensorInfo, ...] = ()
        """All that there were so far."""
        self.closed = False
        self.average_pending = False
        """Whether the moving averages after the last step are still to be read."""
        self.committed = first_step - 1
        """The last step that is known to be written."""
        self.nbytes = 0
        """Of the parts that are known to be written."""
        self._written: tuple[Future[int], int] | None = None  # the bytes of a part, and its last step
        _journals.add(self)

    def commit(self, *, wait: bool = True) -> None:
        """Write the steps that wait as one part. Unless told to `wait`, leave a small one to the thread.

        Raises OSError, also of the part that was left to the thread before. Then the steps that wait are dropped, because no part
        can follow one that is missing. For the same reason Ctrl-C in the middle closes the journal: the record ends as that of a
        killed run. Raises UnsupportedOptimizer for state that changes its dtype; the steps before that go on waiting.
        """
        self._wait_for_thread()
        try:
            self._write_what_waits(wait=wait or not self.pending.is_small)
        except Exception:
            raise
        except BaseException:
            self.closed = True
            raise

    def _write_what_waits(self, *, wait: bool) -> None:
        last = self.pending.records[-1].step if self.pending.records else self.committed
        part = self.pending.take(self.tensors)
        if part is None:
            return
        if wait:
            self._note(self.writer.write(*part), last)
        else:
            thread = ThreadPoolExecutor(1, "crosscheck-recorder")
            self._written = thread.submit(self.writer.write, *part), last
            thread.shutdown(wait=False)  # it ends with the part, so that a process that forks seldom has it

    def _wait_for_thread(self) -> None:
        if self._written is None:
            return
        written, last = self._written
        try:
            nbytes = written.result()
        except Exception:
            self._written, self.pending = None, Pending()
            raise
        self._note(nbytes, last)
        self._written = None  # last: after Ctrl-C before it, the part is noted again, and none is forgotten

    def _note(self, nbytes: int, last: int) -> None:
        self.nbytes += nbytes
        self.committed = last

    def end(self, stopped: str | None = None) -> None:
        """Commit what waits and mark the end. `stopped`: why the recording cannot go on. Ending twice is fine."""
        if not self.closed:
            self.commit()
            self.closed = True
            self.writer.close(self.committed, stopped)

    def end_without_waiting(self) -> None:
        """End when the thread has written what it has, without the last step if its moving averages were not read any more.

        Nothing waits for the thread, and errors are suppressed: the garbage collector may call this, in the thread itself too.
        """
        if self._written is None:
            self._end_without_incomplete_step()
        else:  # done already, or in the thread as soon as it is
            self._written[0].add_done_callback(lambda _: self._end_without_incomplete_step())

    def _end_without_incomplete_step(self) -> None:
        with contextlib.suppress(Exception):  # nobody is there any more to be told
            if self.average_pending:
                self.pending.drop_last()
            self.end()


_journals = weakref.WeakSet[Journal]()


def _close_all() -> None:
    for journal in _journals:
        journal.closed = True


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_close_all)
