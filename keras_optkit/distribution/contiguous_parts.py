"""Loads in a row, cut into parts that are as equal as they can be."""

from collections.abc import Sequence


def contiguous_parts(loads: Sequence[float], parts: int) -> list[int]:
    """Cuts a row of loads so that the largest sum of a part is as small as it can be.

    Where there are as many loads as parts or more, no part is empty.

    Args:
        loads: Sequence of numbers >= 0, in the order in which they stay.
        parts: Integer >= 1, into how many parts they are cut.

    Returns:
        A list of integers that ascends: the part of each load, from 0 to `parts - 1`.

    Example:

    >>> contiguous_parts([5, 1, 1, 1, 4], 2)
    [0, 0, 1, 1, 1]
    >>> contiguous_parts([1, 1, 8, 1, 1], 3)
    [0, 0, 1, 2, 2]
    """
    count = len(loads)
    sums = [0]
    for load in loads:
        sums.append(sums[-1] + load)
    # best[i]: the smallest largest sum of the first i loads, and where their last part begins.
    best = [(sums[i], 0) for i in range(count + 1)]
    cuts = []
    for part in range(1, parts):
        # A part is left empty only where there are too few loads.
        options = [
            [(max(best[j][0], sums[i] - sums[j]), j) for j in range(min(part, i), max(i, 1))]
            or [(best[i][0], i)]
            for i in range(count + 1)
        ]
        cuts.append([min(each)[1] for each in options])
        best = [min(each) for each in options]
    result, end = [0] * count, count
    for part in range(parts - 1, 0, -1):
        begin = cuts[part - 1][end]
        result[begin:end] = [part] * (end - begin)
        end = begin
    return result
