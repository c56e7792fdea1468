"""A process that fills a cache and is killed in the middle: python killed_worker.py FOLDER"""

import os
import signal
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from distillation_nets import net, vectors

from keras_optkit.compression.distillation import cache_file
from keras_optkit.distillation import TeacherCache

if __name__ == "__main__":
    writes = []

    def kill_in_the_third(source, target):
        writes.append(target)
        if len(writes) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    # The rows of the third batch are written, and what says so is not.
    rename, cache_file.os.replace = os.replace, kill_in_the_third
    TeacherCache(sys.argv[1], net(width=16, seed=7), vectors(40), batch_size=8).build(verbose=0)
    np.testing.assert_(False)
