import json
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from matplotlib.figure import Figure

from rfo.core.errors import UsageError
from rfo.core.scene import Scene
from rfo.view.plots import mean_and_interval, plot_curve, plot_gradients
from rfo.view.video import caption, film_strip, record, write_image, write_video


def frames(count: int, height: int = 36, width: int = 64) -> Iterator[np.ndarray]:
    """Yields ever lighter grey frames."""
    for index in range(count):
        yield np.full((height, width, 3), 20 * index % 255, dtype=np.uint8)


@pytest.mark.parametrize("height", [36, 37])
def test_mp4_holds_the_frames(tmp_path: Path, height: int) -> None:
    """An .mp4 has all frames, in order and close in value, at an even size."""
    path = tmp_path / "new" / "film.mp4"
    done: list[int] = []
    assert write_video(path, frames(7, height), 30, progress=done.append) == 7
    film = imageio.mimread(path, memtest=False)
    assert done == list(range(1, 8))
    assert [frame.shape for frame in film] == [(36 + 2 * (height % 2), 64, 3)] * 7
    np.testing.assert_allclose([frame.mean() for frame in film], [20 * i for i in range(7)], atol=4)


def test_gif_is_thinned_and_scaled(tmp_path: Path) -> None:
    """A .gif of 60 frames per second keeps every second frame and is no wider than asked."""
    path = tmp_path / "film.gif"
    write_video(path, frames(8), 60, gif_width=32)
    film = imageio.mimread(path)
    assert len(film) == 4
    assert film[0].shape[:2] == (18, 32)


def test_unwritable_films_are_named(tmp_path: Path) -> None:
    """Unknown suffixes, no frames, no rate and changing sizes are errors, and leave no file behind."""
    mixed = [np.zeros((36, 64, 3), np.uint8), np.zeros((36, 66, 3), np.uint8)]
    cases = [("film.avi", frames(2), 30.0), ("film.mp4", iter([]), 30.0), ("film.mp4", frames(2), 0.0)]
    for name, stream, fps in [*cases, ("film.mp4", iter(mixed), 30.0)]:
        with pytest.raises(UsageError):
            write_video(tmp_path / name, stream, fps)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError):
        write_image(tmp_path / "picture.bmp", mixed[0])


def test_record_draws_lazily_and_captions() -> None:
    """Frames are drawn as they are asked for; a caption changes the lower left corner only."""
    drawn: list[int] = []

    def scenes() -> Iterator[Scene]:
        for index in range(3):
            drawn.append(index)
            yield Scene((), np.array([0.1 * index, 0.3, 0.0]), 0.5)

    stream = record(scenes(), 30, width=160, height=90)
    plain = next(stream)
    assert drawn == [0]
    marked = next(record(scenes(), 30, width=160, height=90, text=lambda index, scene: "1.0 m"))
    np.testing.assert_array_equal(marked[:60], plain[:60])
    assert (marked[60:, :80] != plain[60:, :80]).any()
    assert len(list(stream)) == 2


def test_film_strip_lays_frames_out(tmp_path: Path) -> None:
    """Five frames in three columns make two rows, and the sheet survives as .png."""
    sheet = film_strip(frames(5), 3, times=[0.1 * i for i in range(5)], gap=2)
    assert sheet.shape == (2 * 36 + 2, 3 * 64 + 4, 3)
    assert (sheet[-36:, -64:] == 255).all()
    write_image(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(imageio.imread(tmp_path / "sheet.png"), sheet)
    with pytest.raises(UsageError):
        film_strip(frames(2), 2, times=[0.0])
    with pytest.raises(UsageError):
        film_strip([], 2)


def test_caption_keeps_the_frame() -> None:
    """The given frame is not written to."""
    frame = next(frames(1))
    caption(frame, "3.1 m")
    assert not frame.any()


def test_interval_is_students() -> None:
    """Four values 1, 2, 3, 4 have the interval 2.5 +- 2.054; one run has none."""
    mean, half = mean_and_interval([[1.0], [2.0], [3.0], [4.0]])
    assert mean[0] == 2.5
    assert half[0] == pytest.approx(3.182 * np.sqrt(5.0 / 3.0) / 2.0)
    assert np.isnan(mean_and_interval([[1.0]])[1]).all()


def rows(seed: int) -> list[dict[str, float | None]]:
    """Returns twenty rows of metrics, a quarter of them with an evaluation."""
    rng = np.random.default_rng(seed)
    return [
        {"env_steps": 1000.0 * i, "distance": i + rng.normal(), "eval": i if i % 4 == 0 else None} for i in range(20)
    ]


def test_learning_curves_have_lines_and_bands(tmp_path: Path) -> None:
    """Each group is a line, several runs have a band, rows without the key are skipped, and the figure saves."""
    runs = {"rfo": [rows(0), rows(1), rows(2)], "sapo": [json.loads(json.dumps(rows(3)))]}
    figure = plot_curve(runs, ["distance", "eval"], title="Run", labels={"distance": "distance [m]"})
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert (len(left.lines), len(left.collections)) == (2, 1)
    assert len(right.lines[1].get_xdata()) == 5
    assert left.get_ylabel() == "distance [m]"
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_curves_without_data_are_named() -> None:
    """An unknown key lists the keys that exist; runs that share no range and empty requests are refused."""
    with pytest.raises(UsageError, match="distance"):
        plot_curve({"rfo": [rows(0)]}, ["distnace"])
    with pytest.raises(UsageError):
        plot_curve({}, ["distance"])
    apart = [[{"env_steps": 1, "r": 0.0}], [{"env_steps": 2, "r": 0.0}]]
    with pytest.raises(UsageError, match="share no range"):
        plot_curve({"rfo": apart}, ["r"])


def test_gradient_report_counts_what_it_cannot_show(tmp_path: Path) -> None:
    """Zeros and values that are not finite are counted in the titles, never dropped in silence."""
    norms = np.random.default_rng(0).lognormal(size=(16, 32))
    norms[3, 4], norms[5, 6] = 0.0, np.nan
    figure = plot_gradients(norms, [1.0, 1.0, np.inf])
    assert figure.axes[0].get_title() == "not shown: 1 zero, 1 not finite of 512"
    assert figure.axes[1].get_title() == "not shown: 1 not finite of 3"
    figure.savefig(tmp_path / "gradients.png")
    plot_gradients(np.zeros(4), [0.0]).savefig(tmp_path / "zeros.png")
    with pytest.raises(UsageError):
        plot_gradients([], [])
