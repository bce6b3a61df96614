"""An MPM substep written another way: NumPy, float64, deformation gradients and singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def plasticine_stress(f: Any, mu: float, lam: float, limit: float) -> tuple[Any, Any]:
    """Von Mises return on the Hencky strain: F → (returned F, Kirchhoff stress)."""
    u, sigma, vt = np.linalg.svd(f)
    strain = np.log(sigma)
    deviator = strain - strain.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(deviator, axis=1, keepdims=True)
    excess = np.maximum(norm - limit / (2.0 * mu), 0.0)
    strain = strain - excess * deviator / np.maximum(norm, 1e-300)
    stress = 2.0 * mu * strain + lam * strain.sum(axis=1, keepdims=True)
    return (u * np.exp(strain)[:, None]) @ vt, (u * stress[:, None]) @ u.transpose(0, 2, 1)


def water_stress(f: Any, lam: float) -> tuple[Any, Any]:
    """Pressure of a volume ratio; `f` is J [P]."""
    return f, (lam * f * (f - 1.0))[:, None, None] * np.eye(3)


def corotated_stress(f: Any, mu: float, lam: float) -> tuple[Any, Any]:
    """Fixed-corotated solid."""
    u, _, vt = np.linalg.svd(f)
    j = np.linalg.det(f)[:, None, None]
    return f, 2.0 * mu * (f - u @ vt) @ f.transpose(0, 2, 1) + lam * (j - 1.0) * j * np.eye(3)


def neo_hookean_stress(f: Any, mu: float, lam: float) -> tuple[Any, Any]:
    """Compressible neo-Hookean solid."""
    eye = np.eye(3)
    log_j = np.log(np.linalg.det(f))[:, None, None]
    return f, mu * (f @ f.transpose(0, 2, 1) - eye) + lam * log_j * eye


def substep(
    x: Any, v: Any, c: Any, f: Any, model: Any, dt: float, stress_of: Callable[[Any], tuple[Any, Any]], move: Any
) -> tuple[Any, Any, Any, Any]:
    """One substep; `move(momentum, mass, node)` is what happens to a node."""
    dx, origin = model.spacing, np.asarray(model.origin)
    f = (np.eye(3) + dt * c) @ f if f.ndim == 3 else f * (1.0 + dt * np.trace(c, axis1=1, axis2=2))
    f, tau = stress_of(f)
    affine = model.mass * c - dt * model.volume * 4.0 / dx**2 * tau
    cell = (x - origin) / dx
    base = np.floor(cell - 0.5).astype(int)
    place = cell - base
    weights = np.stack([0.5 * (1.5 - place) ** 2, 0.75 - (place - 1.0) ** 2, 0.5 * (place - 0.5) ** 2])
    momentum, mass = np.zeros((*model.nodes, 3)), np.zeros(model.nodes)
    offsets = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    for offset in offsets:
        w = weights[offset[0], :, 0] * weights[offset[1], :, 1] * weights[offset[2], :, 2]
        arm = (np.array(offset) - place) * dx
        index = tuple((base + offset).T)
        np.add.at(mass, index, w * model.mass)
        np.add.at(momentum, index, w[:, None] * (model.mass * v + np.einsum("pij,pj->pi", affine, arm)))
    velocity = np.zeros_like(momentum)
    for node in np.argwhere(mass > 0):
        where = tuple(node)
        velocity[where] = move(momentum[where], mass[where], origin + node * dx)
    v_next, c_next = np.zeros_like(v), np.zeros_like(c)
    for offset in offsets:
        w = weights[offset[0], :, 0] * weights[offset[1], :, 1] * weights[offset[2], :, 2]
        arm = (np.array(offset) - place) * dx
        here = velocity[tuple((base + offset).T)]
        v_next += w[:, None] * here
        c_next += 4.0 / dx**2 * w[:, None, None] * here[:, :, None] * arm[:, None, :]
    return x + dt * v_next, v_next, c_next, f


def node_move(model: Any, dt: float, frame: Any = None) -> Callable[[Any, Any, Any], Any]:
    """What happens to a node under gravity, a capsule along z (its `frame` as the engine takes it) and the walls."""
    layers = (model.margin - 0.5) * model.spacing
    low = np.asarray(model.origin) + layers
    high = np.asarray(model.origin) + (np.asarray(model.nodes) - 1) * model.spacing - layers

    def touch(v: Any, node: Any) -> Any:
        w, x, y, z = frame[3:7]
        axis = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
        _, _, half, radius = model.tools[0].figures
        arm = node - frame[:3]
        away = arm - np.clip(arm @ axis, -half, half) * axis
        distance = np.linalg.norm(away)
        normal = away / distance
        relative = v - frame[7:10] - np.cross(frame[10:13], arm)
        pressing = min(relative @ normal, 0.0)
        sliding = relative - pressing * normal
        kept = max(1.0 + model.tool_friction * pressing / np.sqrt(sliding @ sliding + 1e-6), 0.0)
        influence = np.exp(-666.0 * max(distance - radius, 0.0))
        return v + influence * (kept * sliding - relative)

    def move(momentum: Any, mass: Any, node: Any) -> Any:
        v = momentum / mass + np.array([0.0, dt * model.gravity, 0.0])
        if frame is not None:
            v = touch(v, node)
        if node[1] < low[1]:
            rising = max(v[1], 0.0)
            kept = rising**2 / (rising**2 + model.ground.release_speed**2)
            v = np.array([kept * v[0], rising, kept * v[2]])
        v = np.where((node < low) & [True, False, True], np.maximum(v, 0.0), v)
        return np.where(node > high, np.minimum(v, 0.0), v)

    return move
