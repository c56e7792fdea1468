"""The embedded dataset: scikit-learn's digits as a TFDS builder.

Importing this module imports TFDS and registers the builder with it, so that
`tensorflow_datasets.load("optkit_digits")` works from then on too.
"""

import numpy as np
import tensorflow_datasets as tfds


class OptkitDigits(tfds.core.GeneratorBasedBuilder):
    """1797 grey images of handwritten digits, 8 by 8, which scikit-learn carries with it.

    The last fifth of each class, in the order of the source, is the test split. Images by one
    writer follow each other there, so a split at random would put each writer on both sides.

    Reference:

    - [Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
      Repository, 1998](https://doi.org/10.24432/C50P49)
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The digits of scikit-learn, as uint8 from 0 to 255."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8 by 8 pixels, grey, in 10 classes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits

        source = load_digits()
        # The source counts pen marks per pixel, from 0 to 16.
        images = np.round(source.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
        labels = source.target
        for_test = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            for_test[members[len(members) * 4 // 5 :]] = True
        return {
            "train": self._generate_examples(images, labels, np.flatnonzero(~for_test)),
            "test": self._generate_examples(images, labels, np.flatnonzero(for_test)),
        }

    def _generate_examples(self, images, labels, members):
        for i in members:
            yield int(i), {"image": images[i], "label": int(labels[i])}
