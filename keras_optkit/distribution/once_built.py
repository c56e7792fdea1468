"""What is done with a model as soon as it has its variables."""

import contextlib
from collections.abc import Callable, Iterator

import keras

from keras_optkit.distribution.replaced import replaced


@contextlib.contextmanager
def once_built(model: keras.Model, do: Callable[[], None]) -> Iterator[None]:
    """Calls a function before the steps of a model that begin inside, when it is built.

    Args:
        model: The model.
        do: The function. It is called again by every method that makes steps.
    """

    def first(own):
        def make(force=False):
            do()
            return own(force)

        return make

    names = ("make_train_function", "make_test_function", "make_predict_function")
    with replaced(model, **{name: first(getattr(model, name)) for name in names}):
        yield
