"""The set: a sky, and a ground plane whose tiles and metre marks make motion visible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rfo.view.camera import Camera
from rfo.view.light import LightMap, LightRig

__all__ = ["GroundStyle", "backdrop", "font", "tile_size"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GroundStyle:
    """Looks of ground and sky; colours are linear RGB.

    Attributes:
        color: Ground reflectance.
        contrast: Relative difference between light and dark tiles.
        line: Relative darkening on the lines between tiles.
        mark: Relative darkening of the metre marks.
        horizon: Sky at the horizon, into which the ground fades.
        zenith: Sky at the upper edge of a level picture.
        fade: Distance at which the ground has faded by 63 % [scene extents].
        tile: Edge of a tile [m]; 0 chooses a round number from the scene's extent.
        marks: Metres between the numbers along x, in tiles; 0 for none.
    """

    color: tuple[float, float, float] = (0.605, 0.595, 0.57)
    contrast: float = 0.065
    line: float = 0.14
    mark: float = 0.6
    horizon: tuple[float, float, float] = (0.86, 0.88, 0.90)
    zenith: tuple[float, float, float] = (0.47, 0.61, 0.76)
    fade: float = 15.0
    tile: float = 0.0
    marks: int = 2


@dataclass(frozen=True)
class _Rows:
    """Ground coordinates of a picture: a + b * column, one pair per ground row, as the camera has no roll."""

    first: int
    across: SingleArray
    depth: SingleArray
    a: SingleArray
    b: SingleArray
    footprint: SingleArray

    def points(self, rows: slice, columns: slice) -> tuple[SingleArray, SingleArray]:
        """Returns x and z on the ground for a rectangle of pixels below the horizon."""
        across = self.across[columns]
        x, z = (self.a[rows, k, None] + self.b[rows, k, None] * across for k in (0, 1))
        return x, z


def tile_size(extent: float) -> float:
    """Returns the smallest round number (1, 2 or 5 times a power of ten) of at least 0.7 extents [m]."""
    power = 10.0 ** math.floor(math.log10(0.7 * extent))
    return next(k * power for k in (1.0, 2.0, 5.0, 10.0) if k * power >= 0.7 * extent)


def backdrop(
    camera: Camera,
    width: int,
    height: int,
    extent: float,
    style: GroundStyle,
    rig: LightRig,
    maps: tuple[LightMap, LightMap] | None,
) -> SingleArray:
    """Draws sky and ground.

    Args:
        camera: Seen from here.
        width: Picture width [px].
        height: Picture height [px].
        extent: Size of the scene [m].
        style: Looks.
        rig: Lights.
        maps: Light maps along the key light and from straight above, or None for a ground without shadows.

    Returns:
        Linear RGB, shape [height, width, 3].
    """
    image = np.empty((height, width, 3), dtype=np.float32)
    horizon, zenith = np.float32(style.horizon), np.float32(style.zenith)
    right, up, forward = camera.basis()
    slope = math.tan(math.radians(camera.fov) / 2.0) / (0.5 * height)
    level = forward[1] + up[1] * (0.5 * height - np.arange(height) - 0.5) * slope
    rise = np.clip(level / 0.22, 0.0, 1.0)[:, None] ** 0.8
    image[:] = (horizon + (zenith - horizon) * rise)[:, None, :]
    rows = _ground_rows(camera, width, height)
    if rows is None:
        return image
    tile = style.tile or tile_size(extent)
    albedo = _tiles(rows, tile, style)
    if style.marks:
        _draw_marks(albedo, rows, camera, (width, height), tile, style)
    fog = np.exp(-((rows.depth / np.float32(style.fade * extent)) ** 2))[:, None]
    color, sun, sky = np.float32(style.color), np.float32(rig.key) * np.float32(rig.direction()[1]), np.float32(rig.sky)
    ground = image[rows.first :]
    ground *= (1.0 - fog)[:, :, None]
    albedo *= fog
    for k in range(3):
        ground[:, :, k] += albedo * (color[k] * (sun[k] + sky[k]))
    for light, name, part in () if maps is None else ((maps[0], "shadow", sun), (maps[1], "contact", 0.85 * sky)):
        box = _box(light.bounds(), camera, rows, width, height)
        x, z = rows.points(*box)
        taken = albedo[box] * light.sample(name, x, 0.0, z)
        for k in range(3):
            ground[(*box, k)] -= taken * (color[k] * np.float32(part[k]))
    return image


def _ground_rows(camera: Camera, width: int, height: int) -> _Rows | None:
    right, up, forward = camera.basis()
    slope = math.tan(math.radians(camera.fov) / 2.0) / (0.5 * height)
    vertical = (0.5 * height - np.arange(height) - 0.5) * slope
    fall = -(forward[1] + up[1] * vertical)
    below = fall > 1e-4
    if camera.eye[1] <= 0.0 or not below.any():
        return None
    first = int(np.argmax(below))
    vertical, fall = vertical[first:, None], fall[first:, None]
    depth = camera.eye[1] / fall
    direction = forward[[0, 2]] + up[[0, 2]] * vertical
    a = np.array(camera.eye)[[0, 2]] + depth * direction
    b = depth * right[[0, 2]]
    down = depth * up[1] / fall * direction + depth * up[[0, 2]]
    footprint = slope * np.sqrt(b**2 + down**2)
    across = (np.arange(width) + 0.5 - 0.5 * width) * slope
    single = [array.astype(np.float32) for array in (across, depth[:, 0], a, b, footprint)]
    return _Rows(first, *single)


def _tiles(rows: _Rows, tile: float, style: GroundStyle) -> SingleArray:
    """Returns relative reflectance of tiles and lines, averaged over each pixel's footprint along x and z."""
    checker: SingleArray | float = np.float32(style.contrast)
    gap: SingleArray | float = np.float32(1.0)
    for k, value in enumerate(rows.points(slice(None), slice(None))):
        size = np.maximum(rows.footprint[:, k, None] / np.float32(tile), 1e-4)
        unit = value / np.float32(tile)
        checker = checker * _square_wave(unit, size)
        distance = np.abs(unit - np.rint(unit))
        half = np.float32(0.006)
        reach = np.float32(0.5) * size
        cover = np.clip((np.minimum(distance + reach, half) - np.maximum(distance - reach, -half)) / size, 0.0, 1.0)
        gap = gap * (1.0 - cover)
    return np.asarray((1.0 + checker) * (1.0 - np.float32(style.line) * (1.0 - gap)), dtype=np.float32)


def _square_wave(unit: SingleArray, size: SingleArray) -> SingleArray:
    """Returns the mean over `size` of a wave that is +1 on even and -1 on odd unit intervals."""
    half = np.float32(0.5) * size
    ends = []
    for x in (unit + half, unit - half):
        ends.append(np.abs(x - np.float32(2.0) * np.rint(x * np.float32(0.5))))
    return np.asarray((ends[0] - ends[1]) / size, dtype=np.float32)


def _box(points: FloatArray, camera: Camera, rows: _Rows, width: int, height: int) -> tuple[slice, slice]:
    """Returns the rectangle of ground pixels that contains points of the ground."""
    pixels, depth = camera.project(points, width, height)
    if depth.min() <= 1e-6:
        return slice(0, height - rows.first), slice(0, width)
    low = np.floor(pixels.min(axis=0)).astype(int) - 1
    high = np.ceil(pixels.max(axis=0)).astype(int) + 1
    columns = slice(int(np.clip(low[0], 0, width)), int(np.clip(high[0], 0, width)))
    ground = height - rows.first
    return slice(int(np.clip(low[1] - rows.first, 0, ground)), int(np.clip(high[1] - rows.first, 0, ground))), columns


def _draw_marks(
    albedo: SingleArray, rows: _Rows, camera: Camera, size: tuple[int, int], tile: float, style: GroundStyle
) -> None:
    """Paints the distance in metres on the ground beyond the body, facing the camera, every `style.marks` tiles."""
    side = 1.0 if camera.eye[2] >= camera.target[2] else -1.0
    step = style.marks * tile
    tall = 0.4 * tile
    middle = round(camera.target[0] / step)
    for index in range(middle - 12, middle + 13):
        text = f"{index * step:g} m"
        wide = tall * _text_ratio(text)
        centre = np.array([index * step + side * (0.08 * tile + wide / 2.0), 0.0, -side * 1.25 * tile])
        rim = [
            centre + [side * i * wide / 2, 0.0, -side * j * tall / 2] for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        pixels, depth = camera.project(np.array(rim), *size)
        if depth.min() <= 0.05 * tile:
            continue
        box = _box(np.array(rim), camera, rows, *size)
        high, across = box[0].stop - box[0].start, box[1].stop - box[1].start
        lettering = float(np.linalg.norm(pixels[1] - pixels[0]))
        if high < 3 or across < 3 or lettering < 6.0:
            continue
        x, z = rows.points(*box)
        u = np.float32(side) * (x - np.float32(centre[0])) / np.float32(wide) + np.float32(0.5)
        v = np.float32(side) * (z - np.float32(centre[2])) / np.float32(tall) + np.float32(0.5)
        rise = float(np.abs(pixels[2, 1] - pixels[1, 1]))
        table = _lettering(text, max(round(lettering / 4) * 4, 8), max(round(rise), 4))
        albedo[box] *= np.float32(1.0) - np.float32(style.mark) * _bilinear(table, u, v)


def _bilinear(table: SingleArray, u: SingleArray, v: SingleArray) -> SingleArray:
    """Samples a picture at coordinates in [0, 1]; zero outside."""
    rows, columns = table.shape
    i = np.clip(v * rows - np.float32(0.5), 0.0, rows - 1.001)
    j = np.clip(u * columns - np.float32(0.5), 0.0, columns - 1.001)
    i0, j0 = i.astype(np.int32), j.astype(np.int32)
    i, j = i - i0, j - j0
    top = table[i0, j0] * (1 - j) + table[i0, j0 + 1] * j
    bottom = table[i0 + 1, j0] * (1 - j) + table[i0 + 1, j0 + 1] * j
    inside = (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return np.asarray((top * (1 - i) + bottom * i) * inside, dtype=np.float32)


@lru_cache(maxsize=16)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns the sans-serif font that matplotlib brings along, so that pictures are the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=512)
def _master(text: str) -> Image.Image:
    box = font(96, bold=True).getbbox(text)
    image = Image.new("L", (int(box[2]) + 24, 112), 0)
    ImageDraw.Draw(image).text((12, -2), text, fill=255, font=font(96, bold=True))
    return image


def _text_ratio(text: str) -> float:
    image = _master(text)
    return image.width / image.height


@lru_cache(maxsize=512)
def _lettering(text: str, width: int, height: int) -> SingleArray:
    """Returns text as coverage in [0, 1] at about the size at which it is seen, so that sampling does not alias."""
    image = _master(text).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float32) / np.float32(255.0)
