"""An objective that is a program in an environment of its own: one worker for the life of this process, JSON lines.

It reads one line a batch, ``{"images": ["/…/000000.png", …], "prompts": ["…", …]}``, and answers one line,
``{"values": [0.1, …]}``. Its stderr is kept for error messages. It ends when its stdin is closed, which also happens
when this process is killed; when this process ends in order, it is killed, with whatever it started.
"""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from d3po_core.errors import ObjectiveError

__all__ = ["CommandWorker"]

OURS_ALONE = ("PYTHONPATH", "PYTHONHOME")
"""Variables that would make another environment's Python import this one's packages."""
LAST_WORDS = 2000
"""Characters of its stderr in an error."""


class CommandWorker:
    """Starts the program when it is first asked, and again after one that failed."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        """Start nothing yet.

        Args:
            command: the program and its arguments.
            timeout: seconds for one batch; the first has the start in it.
        """
        self.command, self.timeout = list(command), timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the worker)
        self._end: weakref.finalize | None = None

    def __call__(self, images_NhwC: np.ndarray, prompts: Sequence[str]) -> list[float]:
        """The worker's values of [N, h, w, 3] uint8 images and their prompts.

        Raises:
            ObjectiveError: it does not start, dies, answers too late or something else than asked for.
        """
        with tempfile.TemporaryDirectory(prefix="d3po-objective-") as folder:
            paths = [str(Path(folder, f"{number:06d}.png")) for number in range(len(images_NhwC))]
            for path, image in zip(paths, images_NhwC, strict=True):
                Image.fromarray(image).save(path)
            request = json.dumps({"images": paths, "prompts": list(prompts)}).encode() + b"\n"
            try:
                return _values(self._exchange(request), len(paths))
            except _Failure as failure:
                self.close()
                raise ObjectiveError(
                    f"the command {' '.join(self.command)} {failure}{self._last_words()}",
                    "run that command by hand and give it a line of JSON (docs/objectives.md); then d3po init CONFIG",
                ) from None

    def close(self) -> None:
        """Kill the worker, if there is one."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._stderr.seek(0)
            self._stderr.truncate()
            environment = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
            try:
                self._process = subprocess.Popen(
                    self.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
                    bufsize=0, start_new_session=True,
                )  # fmt: skip
            except OSError as problem:
                raise _Failure(f"cannot be started: {problem}") from None
            os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
            self._end = weakref.finalize(self, _kill, self._process)
        return self._process

    def _exchange(self, request: bytes) -> bytes:
        """Send one line, receive one, both before the deadline: neither side can wait for the other for ever."""
        process, deadline, answer = self._started(), time.monotonic() + self.timeout, b""
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            ready.register(process.stdin, selectors.EVENT_WRITE)
            while not answer.endswith(b"\n"):
                events = ready.select(max(deadline - time.monotonic(), 0))
                if not events or time.monotonic() > deadline:
                    raise _Failure(f"did not answer within {self.timeout:g} s")
                for key, _ in sorted(events, key=lambda event: event[0].fileobj is process.stdin):  # its words first
                    if key.fileobj is process.stdout:
                        received = os.read(key.fd, 65536)
                        if not received:
                            raise _Failure(f"ended ({_how(process)}) before it answered")
                        if request:  # it would be taken for this batch's answer, and each answer for the next batch's
                            raise _Failure(f"wrote {_shown(received)} before it was asked, expected one line a batch")
                        answer += received
                    else:
                        request = request[_written(key.fd, request, process) :]
                        if not request:
                            ready.unregister(process.stdin)
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()[-LAST_WORDS:]
        return f"; its stderr:\n    {text.replace(chr(10), chr(10) + '    ')}" if text else "; its stderr is empty"


class _Failure(Exception):
    """What the command did, as the end of a sentence."""


def _shown(text: bytes) -> str:
    return repr(text.decode(errors="replace").strip()[:200])


def _values(answer: bytes, count: int) -> list[float]:
    try:
        values = json.loads(answer)["values"]
    except (ValueError, TypeError, KeyError):
        values = None
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise _Failure(f'answered {_shown(answer)}, expected one line {{"values": [{count} numbers]}}')
    if len(values) != count:
        raise _Failure(f"answered {len(values)} values for {count} images")
    return values


def _written(descriptor: int, data: bytes, process: subprocess.Popen[bytes]) -> int:
    try:
        return os.write(descriptor, data)
    except BrokenPipeError:
        raise _Failure(f"ended ({_how(process)}) before it was asked") from None


def _how(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "it closed its output, but still runs"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    # With whatever it started: `conda run` and shells stand between us and the program, which may hold a GPU's memory.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
