"""A software renderer: `render(scene, camera, width, height)` needs no display, GPU or OpenGL.

Order of work: surfaces are prepared (`surface`), triangles become visible samples (`fragments`), shadows are looked up
on maps over the ground (`light`), and the samples are averaged over the set (`ground`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from rfo.core.errors import UsageError
from rfo.core.scene import Scene, SceneBalls, SceneMesh
from rfo.view.balls import Discs, proxies, rasterise_balls
from rfo.view.camera import Camera
from rfo.view.fragments import Fragments, face_planes, front, merge, rasterise
from rfo.view.ground import GroundStyle, backdrop
from rfo.view.light import LightMap, LightRig, light_map, shade, tone
from rfo.view.surface import bevel, corner_normals, is_closed

__all__ = ["Look", "render"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """How pictures are drawn.

    Attributes:
        samples: Samples per pixel along each axis, for smooth edges.
        bevel_levels: Subdivisions of smooth meshes before their edges are rounded (`surface.bevel`).
        bevel_passes: How far edges are rounded; 0 leaves them sharp.
        bevel_faces: Scenes with more faces than this are fine enough as they are.
        ground: Looks of ground and sky.
        light: The lights.
    """

    samples: int = 3
    bevel_levels: int = 2
    bevel_passes: int = 5
    bevel_faces: int = 1000
    ground: GroundStyle = field(default_factory=GroundStyle)
    light: LightRig = field(default_factory=LightRig)


@dataclass(frozen=True)
class _Soup:
    """All triangles of a scene: positions, normals and colours at the corners, each of shape [F, 3, 3]."""

    position: FloatArray
    normal: FloatArray
    color: FloatArray
    two_sided: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Faces:
    """The triangles of a scene that a camera may see.

    Attributes:
        corners: In the picture [px], shape [F, 3, 2].
        inverse: Inverse depths of the corners [1/m], shape [F, 3].
        facing: Unit normals of the faces, shape [F, 3].
        values: Position, normal and colour at the corners, shape [F, 3, 9].
    """

    corners: FloatArray
    inverse: FloatArray
    facing: FloatArray
    values: FloatArray

    @classmethod
    def seen(cls, soup: _Soup, camera: Camera, width: int, height: int, near: float) -> _Faces:
        pixels, depth = camera.project(soup.position.reshape(-1, 3), width, height)
        corners, depth = pixels.reshape(-1, 3, 2), depth.reshape(-1, 3)
        outward = np.cross(soup.position[:, 1] - soup.position[:, 0], soup.position[:, 2] - soup.position[:, 0])
        front = np.einsum("ij,ij->i", outward, np.asarray(camera.eye) - soup.position[:, 0]) > 0.0
        seen = (depth.min(axis=1) > near) & (front | soup.two_sided)
        seen &= (corners.max(axis=1) > 0.0).all(axis=1) & (corners.min(axis=1) < [width, height]).all(axis=1)
        facing = outward[seen] / np.maximum(np.linalg.norm(outward[seen], axis=1, keepdims=True), 1e-20)
        flip = np.where(front[seen], 1.0, -1.0)[:, None, None]
        values = np.concatenate([soup.position[seen], soup.normal[seen] * flip, soup.color[seen]], axis=2)
        return cls(corners[seen], 1.0 / depth[seen], facing, values)


def render(scene: Scene, camera: Camera, width: int = 960, height: int = 540, look: Look | None = None) -> Image:
    """Draws a scene over a ground plane under a pale sky.

    Args:
        scene: What to draw; triangles that reach behind the camera are left out.
        camera: Where it is seen from.
        width: Picture width [px].
        height: Picture height [px].
        look: Looks; `Look()` if None.

    Returns:
        sRGB, shape [height, width, 3].

    Raises:
        UsageError: The size is not positive, or the scene is malformed or not finite.
    """
    look = look or Look()
    if width < 1 or height < 1:
        raise UsageError(f"render: a picture of {width} x {height} pixels is empty; both must be at least 1")
    soup = _soup(scene, look)
    extent = float(scene.extent)
    maps = None
    blocking = np.concatenate([soup.position, *map(proxies, scene.balls)])
    if len(blocking):
        overhead = np.array([0.0, 1.0, 0.0])
        maps = (
            light_map(blocking, look.light.direction(), extent, 256, 22.0),
            light_map(blocking, overhead, extent, 128, 4.0),
        )
    image = backdrop(camera, width, height, extent, look.ground, look.light, maps)
    if maps is not None:
        _draw(image, soup, scene.balls, camera, look, maps, extent)
    return tone(image)


def _soup(scene: Scene, look: Look) -> _Soup:
    if not (np.isfinite(scene.focus).all() and math.isfinite(scene.extent) and scene.extent > 0.0):
        raise UsageError(f"render: scene focus {scene.focus} or extent {scene.extent} is not finite and positive")
    coarse = sum(len(mesh.faces) for mesh in scene.meshes) <= look.bevel_faces
    parts: list[tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.bool_]]] = []
    for index, mesh in enumerate(scene.meshes):
        _require_sound(index, mesh)
        if mesh.smooth and look.bevel_passes and coarse:
            mesh = bevel(mesh, levels=look.bevel_levels, passes=look.bevel_passes)
        sides = np.full(len(mesh.faces), not is_closed(mesh.faces))
        parts.append((mesh.vertices[mesh.faces], corner_normals(mesh), mesh.colors[mesh.faces], sides))
    for index, balls in enumerate(scene.balls):
        _require_balls(index, balls)
    if not parts:
        empty = np.zeros((0, 3, 3))
        return _Soup(empty, empty, empty, np.zeros(0, dtype=bool))
    return _Soup(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _require_sound(index: int, mesh: SceneMesh) -> None:
    count = len(mesh.vertices)
    if mesh.colors.shape != (count, 3):
        raise UsageError(f"render: mesh {index} has {count} vertices but colours of shape {mesh.colors.shape}")
    if len(mesh.faces) and not 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < count:
        raise UsageError(f"render: mesh {index} has faces that name vertices outside 0..{count - 1}")
    if not np.isfinite(mesh.vertices).all():
        raise UsageError(f"render: mesh {index} has vertices that are not finite; has the simulation diverged?")


def _require_balls(index: int, balls: SceneBalls) -> None:
    count = len(balls.centers)
    if balls.centers.shape != (count, 3) or balls.colors.shape != (count, 3):
        shapes = f"centres of shape {balls.centers.shape} and colours of shape {balls.colors.shape}"
        raise UsageError(f"render: balls {index} have {shapes}; both must be [ball_count, 3]")
    if not (np.isfinite(balls.centers).all() and balls.radius > 0.0):
        raise UsageError(f"render: balls {index} have no positive radius, or centres that are not finite")


def _draw(
    image: SingleArray,
    soup: _Soup,
    balls: tuple[SceneBalls, ...],
    camera: Camera,
    look: Look,
    maps: tuple[LightMap, LightMap],
    extent: float,
) -> None:
    """Draws triangles and balls into a linear image, in place."""
    height, width = image.shape[:2]
    n, near = look.samples, 1e-3 * extent
    faces = _Faces.seen(soup, camera, width, height, near)
    discs = [Discs.seen(some, camera, width, height, n, near) for some in balls]
    window = _window(faces, discs, width, height, n)
    if window is None:
        return
    low, high = window
    columns, rows = (high - low).tolist()
    size = columns * rows * n**2
    corners = (faces.corners - low) * n
    fragments, first = rasterise(corners, faces.inverse, columns * n, rows * n), [len(corners)]
    discs = [some.moved(low * n) for some in discs]
    for some in discs:
        found = rasterise_balls(some, columns * n, rows * n)
        fragments = front(fragments, replace(found, face=found.face + first[-1]), size)
        first.append(first[-1] + len(some.depth))
    # Balls have no one normal: without, `merge` takes two of them for different surfaces.
    facing = np.concatenate([faces.facing, np.zeros((first[-1] - first[0], 3))])
    fragments, weight = merge(fragments, facing, columns, rows, n)
    values = np.empty((9, len(fragments.face)), dtype=np.float32)
    part = fragments.face < first[0]
    values[:, part] = _interpolated(fragments.where(part), corners, faces, columns * n)
    for some, begin, end in zip(discs, first, first[1:], strict=False):
        part = (fragments.face >= begin) & (fragments.face < end)
        values[:, part] = some.surface(fragments.face[part] - begin, fragments.sample[part], columns * n)
    light, above = _light(values, np.asarray(camera.eye), maps, look.light, extent)
    weight = weight * above
    pixel = fragments.sample // (columns * n) // n * columns + fragments.sample % (columns * n) // n
    part_of = image[low[1] : high[1], low[0] : high[0]]
    cover = np.bincount(pixel, weight, minlength=rows * columns).reshape(rows, columns, 1) / n**2
    total = [np.bincount(pixel, channel * weight, minlength=rows * columns) for channel in light]
    part_of *= (1.0 - cover).astype(np.float32)
    part_of += (np.stack(total, axis=1).reshape(rows, columns, 3) / n**2).astype(np.float32)


def _window(
    faces: _Faces, discs: list[Discs], width: int, height: int, n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Returns the first pixel and the one past the last that anything may cover, None where nothing does."""
    bounds = [(faces.corners.min(axis=(0, 1)), faces.corners.max(axis=(0, 1)))] if len(faces.corners) else []
    for some in discs:
        if len(some.depth):
            reach = some.radius[:, None]
            bounds.append(((some.center - reach).min(axis=0) / n, (some.center + reach).max(axis=0) / n))
    if not bounds:
        return None
    low = np.maximum(np.floor(np.min([pair[0] for pair in bounds], axis=0)).astype(np.int64), 0)
    high = np.minimum(np.ceil(np.max([pair[1] for pair in bounds], axis=0)).astype(np.int64), [width, height])
    return low, high


def _interpolated(fragments: Fragments, corners: FloatArray, faces: _Faces, columns: int) -> SingleArray:
    """Returns position, normal and colour at fragments of triangles, shape [9, P]."""
    face = fragments.face
    # What is linear over the picture is the quantity divided by depth.
    planes = face_planes(corners, faces.values * faces.inverse[:, :, None]).astype(np.float32)
    origin = corners[:, 0].astype(np.float32)
    x = (fragments.sample % columns).astype(np.float32) + np.float32(0.5) - origin[face, 0]
    y = (fragments.sample // columns).astype(np.float32) + np.float32(0.5) - origin[face, 1]
    channels = [(planes[0, k][face] + planes[1, k][face] * x + planes[2, k][face] * y) for k in range(9)]
    return np.asarray(np.stack(channels) / fragments.nearness, dtype=np.float32)


def _light(
    values: SingleArray, eye: FloatArray, maps: tuple[LightMap, LightMap], rig: LightRig, extent: float
) -> tuple[SingleArray, npt.NDArray[np.bool_]]:
    """Returns linear RGB of surface points, shape [3, P], and whether they lie above the ground."""
    position, normal, color = values[:3], values[3:6], np.clip(values[6:], 0.0, 1.0)
    normal = normal / (np.sqrt(np.einsum("ip,ip->p", normal, normal)) + np.float32(1e-12))
    toward_eye = eye.astype(np.float32)[:, None] - position
    toward_eye /= np.sqrt(np.einsum("ip,ip->p", toward_eye, toward_eye))
    # Looked up a little off the surface, so that it does not shade itself.
    lifted = position + np.float32(0.03 * extent) * normal
    lit = maps[0].unblocked(lifted)
    # Light from above that a part overhead takes away, and darkness toward the ground below.
    overhead = maps[1].unblocked(lifted)
    sky = (np.float32(0.55) + np.float32(0.45) * overhead) * (
        np.float32(1.0) - np.float32(0.35) * np.exp(-position[1] / np.float32(0.12 * extent))
    )
    return shade(normal, toward_eye, color, lit, sky, rig), position[1] >= 0.0
