"""Keeps the log lines of C++ libraries out of the terminal while they work."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

_LOCK = threading.RLock()
_LOGGERS = ("tensorflow", "absl")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what reaches the process' stderr, log lines of TensorFlow, and warnings.

    C++ code writes to the file descriptor itself, so that is what points elsewhere meanwhile;
    what another thread writes there at that time is lost too. Exceptions pass.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        with contextlib.suppress(AttributeError, ValueError, OSError):
            sys.stderr.flush()
        # A process without a stderr has nothing to silence.
        with contextlib.suppress(OSError):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 2)
            os.close(sink)
        yield
