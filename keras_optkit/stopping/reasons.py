"""Why a `fit` ended, in a word that a program can compare and a person can read."""

import enum


class StopReason(enum.Enum):
    """Why a `fit` ended."""

    COMPLETED = "all epochs were run"
    PATIENCE = "no improvement within the patience"
    CRITERION = "the criterion was met"
    TARGET = "the target was reached"
    DIVERGED = "the monitored value diverged"
    NOT_FINITE = "the monitored value was not finite"
    TIME_BUDGET = "the time budget was used up"
    OTHER = "another callback stopped it"
