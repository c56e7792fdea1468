import warnings

import keras
import numpy as np
import pytest
from PIL import Image

from keras_optkit import data
from keras_optkit.data.directory import validation_mask


def _images(dataset):
    return np.concatenate([np.asarray(x) for x, *_ in dataset])


def _labels(dataset):
    return np.concatenate([np.asarray(y) for _, y in dataset])


def _pillow(file, size, mode="RGB"):
    """The reference: Pillow decodes, and resizes each channel in floats."""
    with Image.open(file) as image:
        channels = image.convert(mode).split()
    resized = [c.convert("F").resize(size[::-1], Image.Resampling.BILINEAR) for c in channels]
    return np.stack([np.asarray(c) for c in resized], axis=-1)


def test_images_and_labels_in_order(write_images):
    folder = write_images({"dog": 3, "ant": 2, "cat": 4})
    dataset = data.from_directory(folder, (4, 5), batch_size=2, shuffle=False)
    assert dataset.class_names == ["ant", "cat", "dog"]
    assert dataset.skipped_paths == []
    names = [f"{c}/{i:03d}.png" for c, n in (("ant", 2), ("cat", 4), ("dog", 3)) for i in range(n)]
    assert dataset.file_paths == [str(folder / name) for name in names]
    assert (len(dataset), dataset.element_spec[0].shape[1:]) == (5, (4, 5, 3))
    expected = [_pillow(file, (4, 5)) for file in dataset.file_paths]
    np.testing.assert_allclose(_images(dataset), expected, atol=0.5 + 1e-3)
    assert _images(dataset).dtype == np.float32
    np.testing.assert_array_equal(_labels(dataset), [0, 0, 1, 1, 1, 1, 2, 2, 2])


def test_class_modes(write_images):
    folder = write_images({"no": 2, "yes": 3})

    def labels(mode):
        return _labels(data.from_directory(folder, 4, class_mode=mode, shuffle=False))

    index = np.array([0, 0, 1, 1, 1])
    for mode, expected, dtype in (
        ("sparse", index, "int32"),
        ("categorical", np.eye(2)[index], "float32"),
        ("binary", index[:, None], "float32"),
    ):
        assert labels(mode).dtype == dtype
        np.testing.assert_array_equal(labels(mode), expected)
    alone = data.from_directory(folder, 4, class_mode=None, shuffle=False)
    assert alone.element_spec.shape == (None, 4, 4, 3)
    assert (sum(len(x) for x in alone), alone.class_names) == (5, [])


def test_without_labels_no_sub_folder_is_needed(write_images):
    folder = write_images({"all": 3}) / "all"
    assert len(data.from_directory(folder, 4, batch_size=1, class_mode=None)) == 3


@pytest.mark.parametrize("cache", [True, False])
def test_shuffling(write_images, cache):
    folder = write_images({"a": 40, "b": 40})

    def epochs(seed, **kwargs):
        dataset = data.from_directory(folder, 2, seed=seed, cache=cache, **kwargs)
        return [_images(dataset) for _ in range(2)]

    one, two = epochs(1), epochs(1)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], epochs(2)[0])
    first, second = epochs(None, shuffle=False)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.sort(first, axis=0), np.sort(one[0], axis=0))
    labels = _labels(data.from_directory(folder, 2, seed=0, cache=cache))
    assert 4 < labels[:32].sum() < 28  # both classes, not one after the other


@pytest.mark.parametrize(("limit", "fits"), [(4 * 75, True), (4 * 75 - 1, False)])
def test_it_caches_what_fits(write_images, monkeypatch, limit, fits):
    monkeypatch.setattr("keras_optkit.data.input_pipeline.MEMORY_LIMIT", limit)
    folder = write_images({"a": 2, "b": 2})
    dataset = data.from_directory(folder, 5, shuffle=False)
    first = _images(dataset)
    for file in dataset.file_paths:
        Image.new("RGB", (5, 5)).save(file)
    assert np.array_equal(_images(dataset), first) is fits


@pytest.mark.parametrize("color_mode", ["rgb", "grayscale"])
def test_every_format_and_color(tmp_path, color_mode):
    # A gradient: TensorFlow's fast decoding of JPEG is off by more on noise.
    row, column = np.mgrid[:8, :8] * 30
    picture = Image.fromarray(np.stack([row, column, 255 - row], axis=-1).astype("uint8"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    kinds = [
        ("RGB", ".bmp"), ("L", ".bmp"), ("RGB", ".gif"), ("RGB", ".jpg"), ("L", ".JPEG"),
        ("CMYK", ".jpg"), ("RGB", ".png"), ("L", ".png"), ("LA", ".png"), ("RGBA", ".PNG"),
        ("P", ".png"), ("1", ".png"), ("RGB", ".webp"),
    ]  # fmt: skip
    for mode, suffix in kinds:
        picture.convert(mode).save(tmp_path / "a" / f"{mode}{suffix}")
    picture.save(tmp_path / "b" / "x.png")
    dataset = data.from_directory(tmp_path, 8, color_mode=color_mode, shuffle=False)
    assert len(dataset.file_paths) == len(kinds) + 1
    mode = "RGB" if color_mode == "rgb" else "L"
    for file, ours in zip(dataset.file_paths, _images(dataset), strict=True):
        if "CMYK" in file or file.endswith(".webp"):
            continue  # colors are converted by other tables
        tolerance = 5 if file.lower().endswith((".jpg", ".jpeg")) else 1.01
        np.testing.assert_allclose(ours, _pillow(file, (8, 8), mode), atol=tolerance, err_msg=file)


def test_images_at_any_depth_and_hidden_ones(write_images):
    folder = write_images({"a": 2, "b": 2, "a/deep/er": 1, ".hidden": 3, "b/.ipynb": 1})
    (folder / "b" / "._000.png").write_bytes(b"not an image")
    (folder / "b" / "notes.txt").write_text("not an image")
    dataset = data.from_directory(folder, 4, batch_size=1)
    assert (len(dataset), dataset.class_names) == (5, ["a", "b"])


def _damage(folder):
    whole = (folder / "a" / "000.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "empty.jpg").write_bytes(b"")
    (folder / "b" / "text.jpeg").write_text("this is no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b" / "whole.jpg")
    jpeg = (folder / "b" / "whole.jpg").read_bytes()
    (folder / "b" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    return ["a/cut.png", "a/empty.jpg", "b/cut.jpg", "b/text.jpeg"]


def test_unreadable_images_are_named_skipped_and_counted(write_images, make_classifier):
    folder = write_images({"a": 6, "b": 6})
    broken = _damage(folder)
    message = f"4 of 17 images in .*images' cannot be read and are left out: {', '.join(broken)}$"
    with pytest.warns(UserWarning, match=message) as caught:
        dataset = data.from_directory(folder, 4, batch_size=4)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert dataset.skipped_paths == sorted(str(folder / name) for name in broken)
    assert len(dataset.file_paths) == 13
    model = make_classifier((4, 4, 3), 2)
    model.fit(dataset, epochs=2, verbose=0, shuffle=False)
    assert model.optimizer.iterations == 2 * 4


def test_what_is_not_verified_fails_in_the_epoch(write_images):
    folder = write_images({"a": 2, "b": 2})
    _damage(folder)
    dataset = data.from_directory(folder, 4, verify=False)
    with pytest.raises(Exception, match=r"(?i)decode|image|input"):
        _images(dataset)


def test_both_halves_are_stratified_and_disjoint(write_images):
    folder = write_images({"a": 20, "b": 10, "c": 4})
    train, validation = data.from_directory(
        folder, 4, validation_split=0.25, subset="both", batch_size=5
    )
    assert np.bincount(_labels(validation)).tolist() == [5, 2, 1]
    assert np.bincount(_labels(train)).tolist() == [15, 8, 3]
    assert not set(train.file_paths) & set(validation.file_paths)
    assert len(train) == 6
    assert len(validation) == 2
    assert train.class_names == validation.class_names == ["a", "b", "c"]
    # The training half is shuffled, the other is not.
    assert not np.array_equal(_labels(train), np.sort(_labels(train)))
    np.testing.assert_array_equal(_labels(validation), [0] * 5 + [1] * 2 + [2])


def test_the_split_depends_on_the_names_alone(write_images):
    folder = write_images({"a": 20, "b": 20})

    def halves(seed):
        kwargs = {"image_size": 4, "validation_split": 0.2, "seed": seed}
        return [
            set(data.from_directory(folder, subset=subset, **kwargs).file_paths)
            for subset in ("training", "validation")
        ]

    train, validation = halves(1)
    assert [train, validation] == halves(2)
    assert not train & validation
    assert len(train | validation) == 40
    # Not simply the first or the last ones.
    assert {f"{i:03d}.png" for i in range(4)} != {p[-7:] for p in validation if "/a/" in p}
    moved = folder.rename(folder.parent / "elsewhere")
    again = data.from_directory(moved, 4, validation_split=0.2, subset="validation")
    assert {p[-9:] for p in again.file_paths} == {p[-9:] for p in validation}


def test_validation_mask():
    names = [f"x{i}" for i in range(103)]
    labels = np.array([0] * 90 + [1] * 10 + [2] * 2 + [3])
    mask = validation_mask(names, labels, 0.1)
    assert [int(mask[labels == c].sum()) for c in range(4)] == [9, 1, 1, 0]
    assert not validation_mask(["a", "b"], np.array([0, 0]), 0.99).all()
    # The order in which the files are listed does not matter.
    order = np.random.default_rng(0).permutation(103)
    shuffled = validation_mask([names[i] for i in order], labels[order], 0.1)
    np.testing.assert_array_equal(shuffled, mask[order])
    # A file that comes later moves no more than one other of its class.
    more = validation_mask([*names, "new"], np.append(labels, 0), 0.1)[:103]
    assert np.sum(more != mask) <= 1


def test_augment_reaches_the_training_half_only(write_images):
    folder = write_images({"a": 6, "b": 6})
    kwargs = {"image_size": 4, "validation_split": 0.5, "augment": lambda x: x * 0.0}
    train, validation = data.from_directory(folder, subset="both", **kwargs)
    assert _images(train).max() == 0
    assert _images(validation).max() > 0
    with pytest.raises(ValueError, match="leave it out for the validation subset"):
        data.from_directory(folder, subset="validation", **kwargs)
    alone = data.from_directory(folder, 4, class_mode=None, augment=lambda x: x * 0.0)
    assert max(np.max(x) for x in alone) == 0


def test_fit_trains_on_it(tmp_path, digits, make_classifier):
    images, labels = digits
    for name in range(3):
        (tmp_path / str(name)).mkdir()
        for i, image in enumerate(images[labels == name][:40, ..., 0]):
            pixels = Image.fromarray((image * 255).astype("uint8"))
            pixels.save(tmp_path / str(name) / f"{i}.png")
    train, validation = data.from_directory(
        tmp_path,
        image_size=(8, 8),
        batch_size=32,
        validation_split=0.2,
        subset="both",
        seed=0,
        color_mode="grayscale",
        augment=keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=0),
    )
    model = make_classifier((8, 8, 1), 3)
    fitted = model.fit(train, validation_data=validation, epochs=6, verbose=0, shuffle=False)
    assert fitted.history["val_accuracy"][-1] > 0.8
    assert model.optimizer.iterations == 6 * 3


@pytest.mark.parametrize(
    ("counts", "arguments", "message"),
    [
        ({"a": 2}, {}, r"at least two classes.*1 sub-folder \('a'\) and 2 images.*Received: path="),
        ({}, {}, "0 sub-folders and 0 images"),
        ({"a": 0, "b": 0}, {}, r"no image in the folder. Formats: \.bmp.*none. Received: path="),
        ({"a": 2, "b": 0}, {}, r"1 sub-folder \('b'\) has none. Add images or remove"),
        ({"a": 1, "b": 1, "c": 1}, {"class_mode": "binary"}, "two classes. Received: 3 classes"),
        ({"a": 1, "b": 1}, {"class_mode": "int"}, "`class_mode` must be one of.*'int'"),
        ({"a": 1, "b": 1}, {"color_mode": "rgba"}, "`color_mode` must be one of.*'rgba'"),
        ({"a": 1, "b": 1}, {"subset": "both"}, "`subset` needs `validation_split`"),
        ({"a": 1, "b": 1}, {"validation_split": 0.2}, "must be one of.*Received: subset=None"),
        (
            {"a": 1, "b": 1},
            {"validation_split": 1.5, "subset": "both"},
            "float between 0 and 1. Received: validation_split=1.5",
        ),
        (
            {"a": 1, "b": 1},
            {"validation_split": 0.5, "subset": "validation"},
            "leaves no image for validation",
        ),
        ({"a": 1, "b": 1}, {"image_size": (4,)}, "`image_size`"),
        ({"a": 1, "b": 1}, {"batch_size": True}, "`batch_size`"),
        ({"a": 1, "b": 1}, {"seed": 0.5}, "`seed`"),
        ({"a": 1, "b": 1}, {"augment": 3}, "`augment`"),
    ],
)
def test_bad_input(tmp_path, write_images, counts, arguments, message):
    (tmp_path / "images").mkdir()
    folder = write_images(counts)
    with pytest.raises(ValueError, match=message):
        data.from_directory(folder, **{"image_size": 4, **arguments})


def test_a_path_that_is_not_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such folder. Received: path=.*nope"):
        data.from_directory(tmp_path / "nope", 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder, not a file"):
        data.from_directory(tmp_path / "file", 4)


def test_a_class_without_one_readable_image(write_images):
    folder = write_images({"a": 2, "b": 1})
    (folder / "b" / "000.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="1 of 3 images"),
        pytest.raises(ValueError, match=r"1 sub-folder \('b'\) has none"),
    ):
        data.from_directory(folder, 4)


def test_other_files_are_said(write_images):
    folder = write_images({"a": 1, "b": 1})
    for file in folder.rglob("*.png"):
        file.rename(file.with_suffix(".tif"))
    with pytest.raises(ValueError, match=r"Other files: 2 with \.tif"):
        data.from_directory(folder, 4)


def test_nothing_is_printed(write_images, capfd):
    folder = write_images({"a": 2, "b": 2})
    with warnings.catch_warnings(record=True) as said:
        _images(data.from_directory(folder, 4))
    assert (*capfd.readouterr(), said) == ("", "", [])
