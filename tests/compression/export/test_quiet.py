"""What is silenced, and that it is not silenced for good."""

import logging
import os
import warnings

import pytest

from keras_optkit.compression.export.quiet import quiet


def test_drops_what_reaches_the_file_descriptor(capfd):
    with quiet():
        os.write(2, b"noise\n")
        with quiet():
            os.write(2, b"noise\n")
        os.write(2, b"noise\n")
    os.write(2, b"signal\n")
    assert capfd.readouterr() == ("", "signal\n")


def test_puts_all_back_after_an_exception(capfd):
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels, filters = [logger.level for logger in loggers], list(warnings.filters)
    descriptors = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(KeyboardInterrupt), quiet():
        warnings.warn("dropped", stacklevel=1)
        assert loggers[0].level == logging.ERROR
        raise KeyboardInterrupt
    assert [logger.level for logger in loggers] == levels
    assert warnings.filters == filters
    if descriptors is not None:
        assert os.listdir("/proc/self/fd") == descriptors
    os.write(2, b"signal\n")
    assert capfd.readouterr().err == "signal\n"
