"""Small models, and directional derivatives, for the tests of the rigid-body engine."""

from __future__ import annotations

from pathlib import Path

import pytest

CHAIN = """
<mujoco>
  <compiler angle="radian"/>
  <option gravity="0 0 -9.81"/>
  <custom><numeric name="contact" data="2000 0.5 60 0.05"/><numeric name="limit" data="50 0.2"/></custom>
  <worldbody>
    <geom type="plane" size="5 5 .1" friction=".8"/>
    <body name="base" pos="0 0 .5">
      <freejoint/>
      <geom type="box" size=".1 .08 .05" density="800" friction=".6"/>
      <body name="arm" pos=".1 0 .02" euler=".1 .2 .3">
        <joint name="ball" type="ball" pos="0 .01 0" damping=".02" armature=".003"/>
        <geom type="capsule" fromto="0 0 0 .2 0 .05" size=".03" friction=".6"/>
        <body name="welded" pos=".2 0 .05"><geom type="sphere" size=".05" friction=".6"/></body>
        <body name="slider" pos=".2 0 .05" euler="0 .4 0">
          <joint name="rail" type="slide" axis="1 2 3" range="-.05 .05" stiffness="30" springref=".01" damping=".3"/>
          <joint name="twist" type="hinge" axis="0 1 1" pos=".01 .02 0" range="-.5 .5" armature=".01" ref=".1"/>
          <geom type="capsule" fromto="0 0 0 .15 0 -.1" size=".02" friction=".6"/>
        </body>
      </body>
      <body name="leg" pos="-.1 0 0">
        <joint name="hip" type="hinge" axis="0 1 0" range="-1 1" damping=".1" stiffness=".5"/>
        <geom type="box" pos="0 0 -.1" size=".03 .03 .1" contype="0" conaffinity="0"/>
      </body>
    </body>
    <body name="rover" pos="1 0 .3">
      <joint name="rx" type="slide" axis="1 0 0"/>
      <joint name="rz" type="slide" axis="0 0 1" ref=".3"/>
      <joint name="ry" type="hinge" axis="0 1 0"/>
      <joint name="rw" type="hinge" axis="0 0 1" pos=".02 0 0"/>
      <geom type="capsule" fromto="0 0 0 0 0 .3" size=".05" friction=".6"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="hip" gear="3" ctrlrange="-1 1" ctrllimited="true"/>
    <position joint="twist" kp="5" kv=".1" forcerange="-2 2"/>
    <motor joint="rail" gear="-2"/>
  </actuator>
</mujoco>
"""
"""Every kind of joint, a welded body, two trees, roots with several joints, springs, limits, and both actuators."""


@pytest.fixture(scope="session")
def chain_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain as a file."""
    path = tmp_path_factory.mktemp("mjcf") / "chain.xml"
    path.write_text(CHAIN, encoding="utf-8")
    return path
