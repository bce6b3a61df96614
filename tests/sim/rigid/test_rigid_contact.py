from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rfo.core.errors import UsageError
from rfo.sim.rigid import Compliance, RigidEngine, RigidModel
from rfo.sim.rigid.contact import contact_forces, push
from rfo.sim.rigid.kinematics import Kinematics

SHAPES = {
    "sphere": 'type="sphere" size=".1"',
    "capsule": 'type="capsule" size=".06 .1"',
    "box": 'type="box" size=".1 .08 .06"',
}
PAIRS = [(a, b) for a in SHAPES for b in SHAPES]


def _model(tmp_path: Path, shapes: tuple[str, ...], *, gravity: float, pair: bool) -> RigidModel:
    bodies = "".join(
        f'<body name="b{i}" pos="{0.15 * i} 0 1"><freejoint/><geom name="g{i}" {SHAPES[shape]} mass="1"/></body>'
        for i, shape in enumerate(shapes)
    )
    pairs = '<contact><pair geom1="g0" geom2="g1"/></contact>' if pair else ""
    path = tmp_path / f"{'_'.join(shapes)}.xml"
    path.write_text(
        f"""<mujoco><option gravity="0 0 {-gravity}"/>
        <custom><numeric name="contact" data="10000 1 2000 0.01"/></custom>
        <default><geom friction=".5"/></default>
        <worldbody><geom type="plane" size="5 5 .1"/>{bodies}</worldbody>{pairs}</mujoco>""",
        encoding="utf-8",
    )
    return RigidModel.from_mjcf(path)


def _run(model: RigidModel, q: Tensor, v: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
    engine = RigidEngine(model, dt=5e-4, substeps=100, dtype=torch.float64, threads=1)
    for _ in range(round(seconds / 0.05)):
        q, v = engine.step(q, v, torch.zeros(len(q), 0, dtype=torch.float64))
    return q, v


def test_a_push_never_pulls_and_grows_from_zero() -> None:
    """The one-sided spring is zero where nothing touches and continuous where it begins, whatever the speed."""
    compliance = Compliance(stiffness=100.0, damping=0.5)
    depth, rate = np.meshgrid(np.linspace(-0.1, 0.1, 21), np.linspace(-10.0, 10.0, 21))
    force = push(compliance, depth, rate)
    assert (force >= 0).all()
    assert (force[depth <= 0] == 0).all()
    assert push(compliance, 1e-9, 10.0) < 1e-6


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_bodies_come_to_rest_at_the_depth_that_carries_them(shape: str, tmp_path: Path) -> None:
    """Let go over the ground, a body settles where its contact points' springs carry its weight."""
    model = _model(tmp_path, (shape,), gravity=9.81, pair=False)
    q = torch.as_tensor(model.q_rest)[None].clone()
    half, points = {"sphere": (0.1, 1), "capsule": (0.06, 2), "box": (0.06, 4)}[shape]
    if shape == "capsule":  # lying down
        q[0, 3:] = torch.tensor([0.5**0.5, 0.0, 0.5**0.5, 0.0])
    q[0, 2] = half + 0.01
    q, v = _run(model, q, torch.zeros(1, 6, dtype=torch.float64), 5.0)
    assert float(v.abs().max()) < 1e-4
    assert float(q[0, 2]) == pytest.approx(half - 9.81 / (points * 1e4), abs=1e-6)


def test_a_sliding_box_is_slowed_by_coulomb_friction(tmp_path: Path) -> None:
    """Far above the slip speed the deceleration is mu g."""
    model = _model(tmp_path, ("box",), gravity=9.81, pair=False)
    q = torch.as_tensor(model.q_rest)[None].clone()
    q[0, 2] = 0.06 - 9.81 / 4e4
    v = torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    _, later = _run(model, q, v, 0.2)
    assert float(v[0, 0] - later[0, 0]) / 0.2 == pytest.approx(0.5 * 9.81, rel=0.02)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_pairs_push_each_other_apart_with_opposite_forces(kinds: tuple[str, str], tmp_path: Path) -> None:
    """The two forces of a touching pair cancel, in a common point, and separate the bodies."""
    model = _model(tmp_path, kinds, gravity=0.0, pair=True)
    rng = np.random.default_rng(0)
    touched = 0
    for _ in range(30):
        q = model.q_rest + np.concatenate([0.03 * rng.normal(size=3), rng.normal(size=4)] * 2)
        kinematics = Kinematics(model, q)
        total, moment, away = np.zeros(3), np.zeros(3), 0.0
        for force in contact_forces(kinematics, [np.zeros(6)] * 2):
            world = kinematics.world[force.link]
            pushing, point = world.rotation @ force.force, world.point(force.point)
            total, moment = total + pushing, moment + np.cross(point, pushing)
            away += float(pushing @ (q[7 * force.link : 7 * force.link + 3] - q[7 - 7 * force.link :][:3]))
            touched += bool(np.abs(pushing).max() > 0)
        assert np.abs(total).max() < 1e-9
        assert np.abs(moment).max() < 1e-9
        if kinds != ("box", "box"):  # deep in each other, corners leave through whichever faces are nearest
            assert away >= -1e-9
    assert touched > 10


def test_a_ball_pressed_in_by_its_radius_is_pushed_as_hard_as_its_depth_says(tmp_path: Path) -> None:
    """Nothing happens where the centre passes a face of the box: the force goes on growing with the depth."""
    model = _model(tmp_path, ("sphere", "box"), gravity=0.0, pair=True)
    for height in np.linspace(-3e-4, 3e-4, 61):  # of the sphere's centre over the face
        q = np.array([0.0, 0.0, 1.06 + height, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        forces = contact_forces(Kinematics(model, q), [np.zeros(6)] * 2)
        on_ball = sum(force.force for force in forces if force.link == 0)
        np.testing.assert_allclose(on_ball, [0.0, 0.0, 1e4 * (0.1 - height)], rtol=0, atol=0.1)


def test_colliding_bodies_keep_their_common_momentum(tmp_path: Path) -> None:
    """Two spheres that hit off centre exchange momentum and lose none."""
    model = _model(tmp_path, ("sphere", "sphere"), gravity=0.0, pair=True)
    q = torch.as_tensor(model.q_rest)[None].clone()
    q[0, 7], q[0, 8] = 0.4, 0.05
    v = torch.zeros(1, 12, dtype=torch.float64)
    v[0, 0], v[0, 6] = 2.0, -1.0
    _, later = _run(model, q, v, 0.3)
    torch.testing.assert_close(later[:, :3] + later[:, 6:9], v[:, :3] + v[:, 6:9], rtol=0, atol=1e-10)
    assert float(later[0, 0]) < 1.0


def test_a_plane_cannot_be_part_of_a_pair(tmp_path: Path) -> None:
    """The ground meets bodies by their contact flags; a pair that names it is refused."""
    path = tmp_path / "pair.xml"
    path.write_text(
        """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/>
        <body pos="0 0 1"><freejoint/><geom name="ball" size=".1"/></body></worldbody>
        <contact><pair geom1="floor" geom2="ball"/></contact></mujoco>""",
        encoding="utf-8",
    )
    with pytest.raises(UsageError, match="floor"):
        RigidModel.from_mjcf(path)
