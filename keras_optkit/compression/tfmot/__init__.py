"""The bridge to TF-MOT: Keras 3 models on tf_keras and back, and TF-MOT's training on them."""
