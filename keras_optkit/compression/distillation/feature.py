"""What the features inside a student cost against those of its teacher, sample by sample."""

from typing import Any

from keras import ops

Tensor = Any


def hint(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the mean squared difference of two features.

    Args:
        teacher: Float tensor of shape `(batch, ..., width)`.
        student: Float tensor of the same shape, projected where the student is narrower.

    Returns:
        Float tensor of shape `(batch,)`.

    Reference:
        Romero et al., "FitNets: hints for thin deep nets", 2015, equation 3. The mean in place of
        half the sum, so that a weight means the same at every width.
    """
    return ops.mean(_flat(ops.square(teacher - student)), axis=-1)


def attention(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the squared distance of two normalised maps of activation.

    Args:
        teacher: Float tensor of shape `(batch, ..., channels)`.
        student: Float tensor of the same shape but for the number of channels.

    Returns:
        Float tensor of shape `(batch,)`, from 0 to 2.

    Reference:
        Zagoruyko and Komodakis, "Paying more attention to attention", 2017: the sum of squares
        over the channels (section 3.1), and the squared distance of the authors' code.
    """
    return ops.sum(ops.square(_attention_map(teacher) - _attention_map(student)), axis=-1)


def relational_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns how differently the distances within a batch are spread.

    Args:
        teacher: Float tensor of shape `(batch, ...)`.
        student: Float tensor of shape `(batch, ...)`.

    Returns:
        Float tensor of shape `(batch,)`: for each sample, the mean over all others.

    Reference:
        Park, Kim, Lu and Cho, "Relational knowledge distillation", 2019, equations 5 to 8.
    """
    apart = 1.0 - ops.eye(ops.shape(student)[0], dtype=student.dtype)
    difference = _huber(_relative_distances(teacher, apart) - _relative_distances(student, apart))
    return _share(ops.sum(difference * apart, axis=-1), ops.sum(apart, axis=-1))


def relational_angle(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns how differently the angles within a batch are spread.

    Memory and time grow with the cube of the batch.

    Args:
        teacher: Float tensor of shape `(batch, ...)`.
        student: Float tensor of shape `(batch, ...)`.

    Returns:
        Float tensor of shape `(batch,)`: for each sample, the mean over all angles at it that two
        other samples make.

    Reference:
        Park, Kim, Lu and Cho, "Relational knowledge distillation", 2019, equations 9 to 11.
    """
    apart = 1.0 - ops.eye(ops.shape(student)[0], dtype=student.dtype)
    # [j, i, k]: samples i and k seen from j.
    distinct = apart[:, :, None] * apart[:, None, :] * apart[None, :, :]
    difference = _huber(_cosines(teacher) - _cosines(student)) * distinct
    return _share(ops.sum(difference, axis=(1, 2)), ops.sum(distinct, axis=(1, 2)))


def _flat(x: Tensor) -> Tensor:
    return ops.reshape(x, (ops.shape(x)[0], -1))


def _attention_map(x: Tensor) -> Tensor:
    return _unit(_flat(ops.sum(ops.square(x), axis=-1)))


def _relative_distances(x: Tensor, apart: Tensor) -> Tensor:
    x = _flat(x)
    squares = ops.sum(ops.square(x[:, None] - x[None, :]), axis=-1)
    # Two equal samples have no distance and no gradient; the root alone would give NaN.
    equal = ops.less_equal(squares, 0.0)
    distances = ops.where(equal, 0.0, ops.sqrt(ops.where(equal, 1.0, squares)))
    return _share(distances, _share(ops.sum(distances * apart), ops.sum(apart)))


def _cosines(x: Tensor) -> Tensor:
    x = _flat(x)
    edges = _unit(x[None, :] - x[:, None])
    return ops.matmul(edges, ops.swapaxes(edges, 1, 2))


def _unit(x: Tensor) -> Tensor:
    # A vector of zeros stays one. `ops.normalize` would give it NaN as its gradient.
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-24))


def _huber(x: Tensor) -> Tensor:
    size = ops.abs(x)
    return ops.where(size <= 1.0, 0.5 * ops.square(x), size - 0.5)


def _share(x: Tensor, total: Tensor) -> Tensor:
    return ops.divide_no_nan(x, total)
