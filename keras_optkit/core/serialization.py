"""How the classes of this package are known to Keras' serialization."""

import keras

register = keras.saving.register_keras_serializable(package="keras_optkit")
# Schedules of sparsity have the names that some learning-rate schedules have too.
register_sparsity = keras.saving.register_keras_serializable(package="keras_optkit.pruning")
