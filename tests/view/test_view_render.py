from dataclasses import replace

import numpy as np
import pytest
import trimesh

from rfo.core.colors import activation_color, linear_from_srgb, srgb_from_linear
from rfo.core.errors import UsageError
from rfo.core.scene import Scene, SceneMesh
from rfo.view.camera import Camera, FollowCamera
from rfo.view.ground import tile_size
from rfo.view.lettering import lettering
from rfo.view.light import blur
from rfo.view.raster import Look, render

RED, BLUE = (0.7, 0.05, 0.05), (0.05, 0.05, 0.7)
CAMERA = Camera((0.8, 1.0, 3.0), (0.0, 0.3, 0.0))


def box(centre: tuple[float, float, float], size: float = 0.4, color: tuple[float, float, float] = RED) -> SceneMesh:
    """Returns a box."""
    shape = trimesh.creation.box((size, size, size))
    vertices = np.asarray(shape.vertices) + centre
    return SceneMesh(vertices, np.asarray(shape.faces), np.tile(color, (len(vertices), 1)), True)


def scene(*meshes: SceneMesh) -> Scene:
    """Returns a scene around (0, 0.3, 0)."""
    return Scene(meshes, np.array([0.0, 0.3, 0.0]), 0.6)


def redness(image: np.ndarray) -> np.ndarray:
    """Returns red minus blue."""
    return image[:, :, 0].astype(int) - image[:, :, 2]


def test_body_appears_where_it_is() -> None:
    """The middle of the picture shows the body and the corner the sky; the same scene gives the same picture."""
    picture = scene(box((0.0, 0.3, 0.0)))
    image = render(picture, CAMERA, 160, 90)
    assert image.shape == (90, 160, 3)
    assert image.dtype == np.uint8
    assert redness(image)[45, 80] > 60
    assert image[0, 0].min() > 180
    np.testing.assert_array_equal(image, render(picture, CAMERA, 160, 90))


def test_the_nearer_body_hides_the_farther() -> None:
    """A red box before a blue one is red, whichever is listed first."""
    near, far = box((0.2, 0.5, 0.8), color=RED), box((0.0, 0.3, 0.0), color=BLUE)
    for order in ((near, far), (far, near)):
        assert redness(render(scene(*order), CAMERA, 160, 90))[45, 80] > 60


def test_shadow_darkens_the_ground_and_grows_softer() -> None:
    """A body takes light from the ground; the darkest part is paler when it hangs higher."""
    empty = render(scene(), CAMERA, 160, 90).astype(int)
    darkest = []
    for height in (0.25, 0.7):
        image = render(scene(box((0.0, height, 0.0), color=(0.9, 0.9, 0.9))), CAMERA, 160, 90).astype(int)
        darkest.append(int((empty - image)[60:].max()))
    assert darkest[0] > darkest[1] + 10 > 25


def test_what_is_below_the_ground_is_not_seen() -> None:
    """A box under the ground leaves no red in the picture."""
    assert redness(render(scene(box((0.0, -0.5, 0.0))), CAMERA, 160, 90)).max() < 25


def test_edges_are_smooth() -> None:
    """More samples per pixel give more shades between body and background."""
    picture = scene(replace(box((0.0, 0.5, 0.0)), smooth=False))
    images = [render(picture, CAMERA, 160, 90, Look(samples=n))[25:48] for n in (1, 3)]
    shades = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in images]
    assert shades[1] > shades[0] + 10


def test_one_sample_more_changes_little() -> None:
    """Lighting alike samples once gives nearly the picture of another sampling."""
    picture = scene(box((0.0, 0.3, 0.0)))
    images = [render(picture, CAMERA, 160, 90, Look(samples=n)).astype(int) for n in (3, 5)]
    assert np.abs(images[0] - images[1]).mean() < 0.5


def test_both_sides_of_an_open_surface_are_seen() -> None:
    """A single triangle is drawn from either side."""
    vertices = np.array([(-0.4, 0.1, 0.0), (0.4, 0.1, 0.0), (0.0, 0.7, 0.0)])
    for faces in ([[0, 1, 2]], [[0, 2, 1]]):
        mesh = SceneMesh(vertices, np.array(faces), np.tile(RED, (3, 1)))
        assert redness(render(scene(mesh), CAMERA, 160, 90))[45, 80] > 40


def test_bodies_behind_or_around_the_camera_are_no_error() -> None:
    """Meshes behind, around and far beyond the camera draw without failing."""
    for centre, size in (((0.8, 1.0, 6.0), 0.4), ((0.8, 1.0, 3.0), 1.0), ((0.0, 0.0, -500.0), 5.0)):
        assert render(scene(box(centre, size)), CAMERA, 64, 36).shape == (36, 64, 3)


def test_lettering_is_bounded() -> None:
    """Text asked for at any size is never larger than its master: a mark near the camera costs no memory."""
    table = lettering("3 m", 10**6, 10**6)
    assert table.size < 200_000
    assert table.max() == 1.0


@pytest.mark.parametrize("eye_z", [0.35, 0.6, -0.6])
def test_marks_close_to_the_camera(eye_z: float) -> None:
    """A camera low over the marks draws them without failing."""
    camera = Camera((0.1, 0.05, -eye_z), (0.2, 0.05, -2.0 * eye_z))
    assert render(scene(), camera, 160, 90).shape == (90, 160, 3)


def test_bad_scenes_are_named() -> None:
    """Vertices that are not finite, wrong colours or faces, and empty pictures say what is wrong."""
    good = box((0.0, 0.3, 0.0))
    with pytest.raises(UsageError, match="not finite"):
        render(scene(replace(good, vertices=good.vertices * np.nan)), CAMERA, 64, 36)
    with pytest.raises(UsageError, match="colours"):
        render(scene(replace(good, colors=good.colors[:3])), CAMERA, 64, 36)
    with pytest.raises(UsageError, match="outside"):
        render(scene(replace(good, faces=good.faces + 1)), CAMERA, 64, 36)
    with pytest.raises(UsageError, match="empty"):
        render(scene(good), CAMERA, 0, 36)


def test_camera_puts_its_target_in_the_middle() -> None:
    """The target falls on the middle, what is above it higher up, what is to the right further right."""
    points = np.array([CAMERA.target, np.add(CAMERA.target, (0, 0.1, 0)), np.add(CAMERA.target, (0.1, 0, 0))])
    pixels, depth = CAMERA.project(points, 160, 90)
    np.testing.assert_allclose(pixels[0], (80.0, 45.0), atol=1e-9)
    assert pixels[1, 1] < 45.0
    assert pixels[2, 0] > 80.0
    np.testing.assert_allclose(depth[0], np.linalg.norm(np.subtract(CAMERA.eye, CAMERA.target)))


def test_impossible_cameras_are_named() -> None:
    """A camera straight above its target, not finite, or without a field of view is refused."""
    for arguments in (((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)), ((np.nan, 1.0, 0.0), (0.0, 0.0, 0.0))):
        with pytest.raises(UsageError):
            Camera(*arguments)
    with pytest.raises(UsageError, match="fov"):
        Camera((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), 180.0)


def test_following_camera_has_no_lag_at_a_steady_speed() -> None:
    """After a few time constants the body of a steady run stays in the middle."""
    follow = FollowCamera()
    for step in range(240):
        x = 3.0 * step / 60.0
        camera = follow.update(Scene((), np.array([x, 0.3, 0.0]), 0.5), 1.0 / 60.0)
    assert abs(camera.target[0] - 0.5 * follow.look[0] - x) < 0.01


def test_following_camera_smooths_a_jolt() -> None:
    """A sudden step of the focus moves the camera by a part of it only."""
    follow = FollowCamera()
    before = follow.update(Scene((), np.zeros(3), 0.5), 1.0 / 60.0)
    after = follow.update(Scene((), np.array([0.2, 0.2, 0.0]), 0.5), 1.0 / 60.0)
    moved = np.subtract(after.target, before.target)
    assert 0.0 < moved[0] < 0.05
    assert 0.0 < moved[1] < moved[0]


def test_following_camera_keeps_a_jump_in_the_picture() -> None:
    """However high a body leaps, its focus stays within `height_lag` of the smoothed height."""
    follow = FollowCamera()
    for step in range(60):
        height = 0.3 + 4.0 * step / 60.0
        camera = follow.update(Scene((), np.array([0.0, height, 0.0]), 0.5), 1.0 / 60.0)
        assert abs(camera.target[1] - 0.5 * follow.look[1] - height) <= 0.5 * follow.height_lag + 1e-9


def test_tiles_are_round_numbers() -> None:
    """Tiles are 1, 2 or 5 times a power of ten and grow with the scene."""
    assert [tile_size(extent) for extent in (0.05, 0.45, 0.6, 1.4, 6.0)] == pytest.approx([0.05, 0.5, 0.5, 1.0, 5.0])


def test_colours_convert_back_and_activation_has_a_direction() -> None:
    """Colours survive the way to linear and back; contraction is warm, extension cool, and values are clipped."""
    srgb = np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(srgb)), srgb, atol=1e-12)
    extension, rest, contraction = activation_color([-1.0, 0.0, 1.0])
    assert contraction[0] > 3.0 * contraction[2]
    assert extension[2] > 3.0 * extension[0]
    assert rest.max() < 1.5 * rest.min()
    np.testing.assert_array_equal(activation_color(5.0), contraction)


@pytest.mark.parametrize("radius", [1.5, 6.0])
def test_blur_keeps_the_sum_and_flat_parts(radius: float) -> None:
    """A point spreads into a bump of the same sum and of the radius asked for; what is flat stays."""
    table = np.zeros((64, 80), dtype=np.float32)
    table[32, 40] = 1.0
    soft = blur(table, radius)
    across = np.arange(80) - 40.0
    assert soft.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.sqrt((soft.sum(axis=0) * across**2).sum()) == pytest.approx(radius, rel=0.15)
    assert blur(np.full((20, 20), 0.3, dtype=np.float32), radius) == pytest.approx(0.3)


def test_a_narrow_blur_keeps_what_is_tiny_beside_what_is_not() -> None:
    """High up the light's field is far below the rounding of its surroundings; losing it blackens a leaping body."""
    table = np.ones((40, 40), dtype=np.float32)
    table[:, 20:] = 1e-25
    assert blur(table, 1.6)[20, 30] == pytest.approx(1e-25, rel=1e-3)
