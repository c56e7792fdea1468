import json
import subprocess
import sys

import numpy as np
import pytest

from keras_optkit.schedules import RangeTest


@pytest.fixture
def result():
    rates = np.geomspace(1e-5, 10, 60)
    losses = 2.5 - np.log1p(rates / 1e-3) / 5
    losses[-1] = np.nan
    return RangeTest(rates, losses, losses, stopped="the loss is nan")


def test_it_is_json(result):
    state = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert state["losses"][-1] is None and len(state["losses"]) == 60
    assert state["suggestions"] == result.suggestions
    assert state["stopped"] == "the loss is nan"


def test_one_line_names_the_suggestions(result):
    line = str(result)
    assert repr(result) == line and "\n" not in line
    for name, rate in result.suggestions.items():
        assert f"{name}={'none' if rate is None else format(rate, '.2e')}" in line


def test_a_rate_of_zero_is_no_suggestion():
    rates = np.linspace(0, 1, 40)
    losses = np.linspace(2, 1, 40)
    found = RangeTest(rates, losses, losses, "", mode="linear").suggestions
    assert all(rate is None or rate > 0 for rate in found.values())


def test_plot(result, tmp_path):
    from PIL import Image

    result.plot(tmp_path / "curve.png")
    result.plot(str(tmp_path / "bare"))
    picture = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB")).reshape(-1, 3)
    assert np.array_equal(
        picture, np.asarray(Image.open(tmp_path / "bare.png").convert("RGB")).reshape(-1, 3)
    )
    # The markers of the suggestions are on it, in their colors.
    for name, color in [("minimum", (0, 114, 178)), ("valley", (213, 94, 0))]:
        assert result.suggestions[name] is not None
        assert (picture == color).all(axis=1).sum() > 100
    with pytest.raises(ValueError, match="PNG file.*Received: path='curve.pdf'"):
        result.plot("curve.pdf")


def test_plot_without_suggestions(tmp_path):
    nothing = RangeTest(np.geomspace(1e-7, 1, 2), [np.nan, np.nan], [np.nan, np.nan], "")
    nothing.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_plot_leaves_matplotlib_alone(tmp_path):
    code = (
        "import matplotlib; matplotlib.use('svg', force=False)\n"
        "import numpy as np\n"
        "from keras_optkit.schedules import RangeTest\n"
        "rates = np.geomspace(1e-5, 1, 40)\n"
        f"RangeTest(rates, 1 - rates, 1 - rates, '').plot({str(tmp_path / 'a.png')!r})\n"
        "print(matplotlib.get_backend())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["svg"]
