"""`python -m keras_optkit.distribution launch ...`."""

import sys

from keras_optkit.distribution.launch import main

if __name__ == "__main__":
    sys.exit(main())
