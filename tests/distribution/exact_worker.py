"""All cases on one device and on four logical ones, in one process.

Run by test_exactness.py, as devices must be made before anything else:
KERAS_BACKEND=... python exact_worker.py [CASE ...]
It prints a line of JSON: the largest relative difference of each case, or what went wrong.
"""

import contextlib
import json
import os
import sys
import traceback

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from cases import CASES, difference, train

from keras_optkit.distribution import data_parallel, split_cpu

split_cpu(4)
found = {}
for name in sys.argv[1:] or CASES:
    try:
        one = train(name, contextlib.nullcontext)
        several = train(name, lambda: data_parallel(4, synchronize_batch_norm=True).scope())
        found[name] = difference(one, several)
    except Exception:
        found[name] = traceback.format_exc(limit=-6)
print(json.dumps(found))
