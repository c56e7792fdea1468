"""How the classes of this package are known to Keras' serialization."""

import keras

register = keras.saving.register_keras_serializable(package="keras_optkit")
