"""The `.keras` file of a model, without what only training needs."""

import io
import json
import os
import tempfile
import zipfile

import keras

from keras_optkit.compression.export.quiet import quiet

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"


def keras_file(model: keras.Model) -> bytes:
    """Returns the `.keras` file of a model as it would be if it had never been compiled.

    An optimizer's state may be twice as large as the weights, and nobody ships it.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        with quiet():
            model.save(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members[_CONFIG])
    config.pop("compile_config", None)
    members[_CONFIG] = json.dumps(config).encode()
    members[_WEIGHTS] = _without_optimizer(members[_WEIGHTS])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return content.getvalue()


def _without_optimizer(weights: bytes) -> bytes:
    import h5py

    # HDF5 does not give the space of a deleted group back, so what stays is copied.
    slim = io.BytesIO()
    with h5py.File(io.BytesIO(weights), "r") as full, h5py.File(slim, "w") as kept:
        kept.attrs.update(full.attrs)
        for name in full:
            if name != "optimizer":
                full.copy(name, kept)
    return slim.getvalue()
