"""What the logits of a student cost against those of its teacher, sample by sample."""

from typing import Any

from keras import ops

Tensor = Any


def soft_targets(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Returns the divergence KL(teacher || student) of softened probabilities, times T squared.

    Args:
        teacher: Float tensor of logits, shape `(..., classes)`.
        student: Float tensor of logits, same shape.
        temperature: Float > 0, T.

    Returns:
        Float tensor of shape `(...)`.

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015. The cross
        entropy of section 2 has the same gradient; the divergence is 0 where both agree.
    """
    log_p = ops.log_softmax(teacher / temperature)
    log_q = ops.log_softmax(student / temperature)
    return temperature**2 * _divergence(log_p, log_q)


def jensen_shannon(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Returns the Jensen-Shannon divergence of softened probabilities, times T squared.

    It is symmetric and at most `T**2 * log(2)`, so a teacher that is surely wrong costs little.

    Args:
        teacher: Float tensor of logits, shape `(..., classes)`.
        student: Float tensor of logits, same shape.
        temperature: Float > 0, T.

    Returns:
        Float tensor of shape `(...)`.

    Reference:
        Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    log_p = ops.log_softmax(teacher / temperature)
    log_q = ops.log_softmax(student / temperature)
    log_m = ops.logaddexp(log_p, log_q) - ops.log(ops.cast(2.0, log_p.dtype))
    return temperature**2 * 0.5 * (_divergence(log_p, log_m) + _divergence(log_q, log_m))


def decoupled(
    teacher: Tensor,
    student: Tensor,
    target: Tensor,
    temperature: float,
    target_weight: float,
    other_weight: float,
) -> Tensor:
    """Returns decoupled knowledge distillation: the true class and the others apart.

    Args:
        teacher: Float tensor of logits, shape `(..., classes)`.
        student: Float tensor of logits, same shape.
        target: Float tensor, the true class as one hot vector, same shape.
        temperature: Float > 0, T.
        target_weight: Float, the weight of "is it the true class", alpha in the paper.
        other_weight: Float, the weight of "which of the others", beta in the paper.

    Returns:
        Float tensor of shape `(...)`.

    Reference:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled knowledge distillation", 2022, equation 7, with
        T squared as in the authors' code.
    """
    # Finite, and far below any logit: the true class takes no part among the others.
    hidden = -1e9 * target

    def split(logits):
        log_p = ops.log_softmax(logits / temperature)
        true = ops.sum(target * log_p, axis=-1)
        others = ops.logsumexp(log_p + hidden, axis=-1)
        return ops.stack([true, others], axis=-1), ops.log_softmax(logits / temperature + hidden)

    (true_p, others_p), (true_q, others_q) = split(teacher), split(student)
    log_ratio = (1.0 - target) * (others_p - others_q)
    among_others = ops.sum(ops.exp(others_p) * log_ratio, axis=-1)
    is_target = _divergence(true_p, true_q)
    return temperature**2 * (target_weight * is_target + other_weight * among_others)


def squared_error(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the mean squared difference of the logits.

    Args:
        teacher: Float tensor of logits, shape `(..., classes)`.
        student: Float tensor of logits, same shape.

    Returns:
        Float tensor of shape `(...)`.

    Reference:
        Ba and Caruana, "Do deep nets really need to be deep?", 2014.
    """
    return ops.mean(ops.square(teacher - student), axis=-1)


def hard_labels(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the cross entropy of the student with the class that the teacher decides for.

    Args:
        teacher: Float tensor of logits, shape `(..., classes)`.
        student: Float tensor of logits, same shape.

    Returns:
        Float tensor of shape `(...)`.

    Reference:
        Touvron et al., "Training data-efficient image transformers and distillation through
        attention", 2021, equation 3.
    """
    decision = ops.one_hot(ops.argmax(teacher, axis=-1), student.shape[-1], dtype=student.dtype)
    return -ops.sum(decision * ops.log_softmax(student), axis=-1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
