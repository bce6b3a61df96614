"""Light: the rig, the maps that carry shadows over the ground and the body, and the tone curve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rfo.core.colors import srgb_from_linear
from rfo.view.fragments import rasterise

__all__ = ["LightMap", "LightRig", "blur", "light_map", "shade", "tone"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]

_TONE_STEPS = 16384
_TONE_RANGE = 2.0


@dataclass(frozen=True)
class LightRig:
    """The lights of a picture; colours are linear RGB.

    Attributes:
        toward: Direction from the scene to the key light, need not be a unit vector.
        key: Colour of the key light.
        sky: Ambient light from straight above.
        bounce: Ambient light from straight below.
        fill: Colour of a weak light from the camera.
        gloss: Strength of the highlight.
    """

    toward: tuple[float, float, float] = (-0.50, 1.0, 0.42)
    key: tuple[float, float, float] = (0.80, 0.75, 0.68)
    sky: tuple[float, float, float] = (0.40, 0.43, 0.48)
    bounce: tuple[float, float, float] = (0.27, 0.25, 0.23)
    fill: tuple[float, float, float] = (0.13, 0.135, 0.14)
    gloss: float = 0.10

    def direction(self) -> FloatArray:
        """Returns the unit vector toward the key light, shape [3]."""
        vector = np.asarray(self.toward, dtype=np.float64)
        return np.asarray(vector / np.linalg.norm(vector))


@dataclass(frozen=True)
class LightMap:
    """Fields over the ground plane seen along a light, on square cells.

    Attributes:
        slope: Ground displacement along x and z per metre of height, shape [2].
        origin: x and z of the map's corner [m], shape [2].
        cell: Edge of a cell [m].
        sharpness: Exponent of the `lit` field [1/m].
        fields: Named fields, each of shape [rows along z, columns along x], 0 at the border unless said.
    """

    slope: FloatArray
    origin: FloatArray
    cell: float
    sharpness: float
    fields: dict[str, SingleArray]

    def sample(self, name: str, x: SingleArray, y: SingleArray | float, z: SingleArray) -> SingleArray:
        """Interpolates a field bilinearly where points fall on the ground along the light; edges extend outward."""
        table = self.fields[name]
        rows, columns = table.shape
        u = (x - y * np.float32(self.slope[0]) - np.float32(self.origin[0])) / np.float32(self.cell) - np.float32(0.5)
        v = (z - y * np.float32(self.slope[1]) - np.float32(self.origin[1])) / np.float32(self.cell) - np.float32(0.5)
        u = np.clip(u, 0.0, columns - 1.001)
        v = np.clip(v, 0.0, rows - 1.001)
        i, j = v.astype(np.int32), u.astype(np.int32)
        u, v = u - j, v - i
        flat, at = table.ravel(), i * columns + j
        top = flat[at] * (1 - u) + flat[at + 1] * u
        bottom = flat[at + columns] * (1 - u) + flat[at + columns + 1] * u
        return np.asarray(top + (bottom - top) * v, dtype=np.float32)

    def unblocked(self, position: SingleArray) -> SingleArray:
        """Returns the share of the light that arrives at points [m], shape [3, P], from the `lit` field."""
        field = self.sample("lit", position[0], position[1], position[2])
        # The constant forgives the blur and the cells a little height.
        exponent = np.float32(self.sharpness) * position[1] + np.float32(0.25)
        return np.asarray(np.clip(field * np.exp(exponent), 0.0, 1.0), dtype=np.float32)

    def bounds(self) -> FloatArray:
        """Returns the map's corners on the ground, shape [4, 3]."""
        rows, columns = next(iter(self.fields.values())).shape
        (x0, z0), x1, z1 = self.origin, self.origin[0] + columns * self.cell, self.origin[1] + rows * self.cell
        return np.array([[x0, 0.0, z0], [x1, 0.0, z0], [x1, 0.0, z1], [x0, 0.0, z1]])


def blur(table: SingleArray, radius: float) -> SingleArray:
    """Blurs by three box filters along each axis, close to a Gaussian of standard deviation `radius` cells."""
    half = max(round((np.sqrt(4.0 * radius**2 + 1.0) - 1.0) / 2.0), 0)
    if half == 0:
        return table
    for _ in range(3):
        for axis in (0, 1):
            table = np.moveaxis(_box(np.moveaxis(table, axis, 0), half), 0, axis)
    return table


def _box(table: SingleArray, half: int) -> SingleArray:
    """Means over 2 half + 1 cells along the first axis."""
    width = 2 * half + 1
    if half <= 4:
        # Term by term: a difference of running sums loses what is 1e-16 of its surroundings, and `lit` high up is less.
        padded = np.pad(table, ((half, half), (0, 0)), mode="edge")
        total = sum(padded[shift : shift + len(table)] for shift in range(1, width)) + padded[: len(table)]
    else:
        running = np.cumsum(np.pad(table, ((half + 1, half), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        total = running[width:] - running[:-width]
    return np.asarray(total / width, dtype=np.float32)


def light_map(corners: FloatArray, toward: FloatArray, extent: float, resolution: int, sharpness: float) -> LightMap:
    """Looks at triangles along a light and prepares the fields that shading reads.

    Fields: `shadow` in [0, 1], how much of the ground's light is blocked, softer the higher the blocking part;
    `lit`, a blurred exp(-sharpness * height) of the topmost surface (exponential shadow maps, Annen et al. 2008);
    `contact` in [0, 1], how closely something hangs over the ground.

    Args:
        corners: Triangle corners [m], shape [F, 3, 3].
        toward: Direction to the light, shape [3], y > 0.
        extent: Size of the scene [m], which sets the softness.
        resolution: Cells along the longer side.
        sharpness: How quickly shadow sets in below a surface, per extent.
    """
    slope = toward[[0, 2]] / toward[1]
    flat = corners[:, :, [0, 2]] - corners[:, :, 1:2] * slope
    low, high = flat.reshape(-1, 2).min(axis=0), flat.reshape(-1, 2).max(axis=0)
    margin = 0.45 * extent
    cell = float((high - low).max() + 2.0 * margin) / resolution
    columns, rows = (np.ceil((high - low + 2.0 * margin) / cell).astype(int) + 1).tolist()
    origin = low - margin
    grid, heights = (flat - origin) / cell, corners[:, :, 1]
    top = rasterise(grid, heights, columns, rows)
    lowest = rasterise(grid, -heights, columns, rows)
    height = np.zeros(rows * columns, dtype=np.float32)
    height[top.sample] = np.maximum(top.nearness, 0.0)
    cover = np.zeros_like(height)
    cover[top.sample] = 1.0
    clearance = np.zeros_like(height)
    clearance[lowest.sample] = np.maximum(-lowest.nearness, 0.0)
    shape, unit = (rows, columns), extent / cell
    fields = {
        "shadow": _penumbra(cover.reshape(shape), clearance.reshape(shape), extent, unit),
        "lit": blur(np.exp(-height.reshape(shape) * np.float32(sharpness / extent)), 0.4 / sharpness * unit),
        "contact": blur((cover * np.exp(-clearance / np.float32(0.16 * extent))).reshape(shape), 0.07 * unit),
    }
    return LightMap(slope, origin, cell, sharpness / extent, fields)


def _penumbra(cover: SingleArray, clearance: SingleArray, extent: float, unit: float) -> SingleArray:
    near, far = blur(cover, 0.014 * unit), blur(cover, 0.10 * unit)
    mean = blur(cover * clearance, 0.14 * unit) / np.maximum(blur(cover, 0.14 * unit), 1e-4)
    softness = np.clip(mean / np.float32(0.9 * extent), 0.0, 1.0)
    return np.asarray(near + (far - near) * softness, dtype=np.float32)


def shade(
    normal: SingleArray, toward_eye: SingleArray, color: SingleArray, lit: SingleArray, sky: SingleArray, rig: LightRig
) -> SingleArray:
    """Lights surface points.

    Args:
        normal: Unit normals, shape [3, P].
        toward_eye: Unit vectors to the camera, shape [3, P].
        color: Linear RGB reflectance, shape [3, P].
        lit: Share of the key light that arrives, shape [P].
        sky: Share of the ambient light that arrives, shape [P].
        rig: The lights.

    Returns:
        Linear RGB, shape [3, P].
    """
    light = rig.direction().astype(np.float32)
    facing = np.einsum("i,ip->p", light, normal)
    # A little wrap stands in for light scattered under the surface: soft bodies have soft terminators.
    key = np.clip((facing + np.float32(0.12)) / np.float32(1.12), 0.0, 1.0) * lit
    up = np.float32(0.5) + np.float32(0.5) * normal[1]
    across = np.clip(np.einsum("ip,ip->p", toward_eye, normal), 0.0, 1.0)
    half = toward_eye + light[:, None]
    half /= np.sqrt(np.einsum("ip,ip->p", half, half))
    shine = np.clip(np.einsum("ip,ip->p", half, normal), 0.0, 1.0)
    for _ in range(5):  # to the 32nd power
        shine *= shine
    rim = (1.0 - across) ** 3 * np.float32(0.22) * sky
    shine = shine * lit * np.float32(rig.gloss)
    image = np.empty_like(color)
    for k in range(3):
        ambient = (rig.bounce[k] + (rig.sky[k] - rig.bounce[k]) * up) * sky
        image[k] = color[k] * (np.float32(rig.key[k]) * key + ambient + np.float32(rig.fill[k]) * across)
        image[k] += shine * np.float32(rig.key[k]) + rim * np.float32(rig.sky[k])
    return image


def tone(linear: SingleArray) -> npt.NDArray[np.uint8]:
    """Maps linear RGB to 8-bit sRGB: straight up to 0.7, above it a shoulder that never clips hard."""
    index = np.clip(linear * np.float32(_TONE_STEPS / _TONE_RANGE), 0, _TONE_STEPS - 1).astype(np.uint16)
    return np.asarray(_tone_table()[index])


@lru_cache(maxsize=1)
def _tone_table() -> npt.NDArray[np.uint8]:
    x = (np.arange(_TONE_STEPS) + 0.5) * (_TONE_RANGE / _TONE_STEPS)
    knee = 0.7
    curve = np.where(x < knee, x, knee + (1.0 - knee) * np.tanh((x - knee) / (1.0 - knee)))
    return np.round(255.0 * srgb_from_linear(curve)).astype(np.uint8)
