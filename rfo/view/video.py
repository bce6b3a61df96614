"""Films: scenes to frames, frames to .mp4 or .gif, and contact sheets to read a gait from."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rfo.core.errors import UsageError
from rfo.core.scene import Scene
from rfo.view.camera import Camera, FollowCamera
from rfo.view.ground import font
from rfo.view.raster import Look, render

__all__ = ["caption", "film_strip", "record", "write_image", "write_video"]

Frame = npt.NDArray[np.uint8]

# GIF counts time in 1/100 s and browsers slow down what is faster than this.
_GIF_FPS = 34.0


def record(
    scenes: Iterable[Scene],
    fps: float,
    *,
    width: int = 960,
    height: int = 540,
    camera: Camera | FollowCamera | None = None,
    look: Look | None = None,
    text: Callable[[int, Scene], str] | None = None,
) -> Iterator[Frame]:
    """Draws one frame per scene, one at a time.

    Args:
        scenes: What to draw, 1 / fps seconds apart.
        fps: Frames per second.
        width: Frame width [px].
        height: Frame height [px].
        camera: A fixed camera, or one that follows; a new `FollowCamera` if None.
        look: Looks of the pictures.
        text: Returns a frame's caption from its number and scene; "" for none.

    Yields:
        sRGB frames, shape [height, width, 3].
    """
    camera = FollowCamera() if camera is None else camera
    for index, scene in enumerate(scenes):
        view = camera.update(scene, 1.0 / fps) if isinstance(camera, FollowCamera) else camera
        frame = render(scene, view, width, height, look)
        words = "" if text is None else text(index, scene)
        yield caption(frame, words) if words else frame


def write_video(
    path: str | Path,
    frames: Iterable[Frame],
    fps: float,
    *,
    progress: Callable[[int], None] | None = None,
    gif_width: int = 640,
) -> int:
    """Writes a film, frame by frame as they come.

    The film appears under its name once it is complete. A .gif is thinned to at most 34 frames per second (at the
    same speed) and has one palette for all frames.

    Args:
        path: Ends with .mp4 (H.264, yuv420p: plays everywhere) or .gif; missing folders are made.
        frames: sRGB frames of one size, shape [height, width, 3].
        fps: Frames per second.
        progress: Called with the number of frames done after each.
        gif_width: A .gif wider than this is scaled down [px].

    Returns:
        The number of frames taken from `frames`.

    Raises:
        UsageError: Unknown suffix, no frames, or frames of different sizes.
    """
    path = Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"video: cannot write {path.name!r}; use a name that ends with .mp4 or .gif")
    if not fps > 0.0:
        raise UsageError(f"video: fps must be positive, got {fps}")
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise UsageError(f"video: there are no frames to write to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix.lower()}")
    gif = path.suffix.lower() == ".gif"
    stride = math.ceil(fps / _GIF_FPS) if gif else 1
    options = _gif_options(min(gif_width, first.shape[1])) if gif else _mp4_options()
    height, width = _even(first).shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(partial), (width, height), fps=fps / stride, macro_block_size=1, quality=None, **options
    )
    count = 0
    try:
        with contextlib.closing(writer):
            writer.send(None)  # starts the encoder
            for frame in itertools.chain([first], stream):
                if frame.shape != first.shape:
                    raise UsageError(f"video: frame {count} has shape {frame.shape}, the first has {first.shape}")
                if count % stride == 0:
                    writer.send(np.ascontiguousarray(_even(frame)))
                count += 1
                if progress is not None:
                    progress(count)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def write_image(path: str | Path, frame: Frame) -> None:
    """Writes one picture as .png; missing folders are made."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"image: cannot write {path.name!r}; use a name that ends with .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path, optimize=True)


def caption(frame: Frame, text: str) -> Frame:
    """Returns the frame with a line of text in its lower left corner, on a soft plate."""
    height = frame.shape[0]
    size = max(round(height / 27), 9)
    pad = round(0.55 * size)
    image = Image.fromarray(frame).convert("RGB")
    left, top, right, bottom = font(size).getbbox(text)
    ascent, descent = font(size).getmetrics()
    plate = (pad, height - 3 * pad - ascent - descent, 3 * pad + round(right - left), height - pad)
    layer = Image.new("L", image.size, 0)
    ImageDraw.Draw(layer).rounded_rectangle(plate, radius=pad, fill=150)
    image.paste(Image.new("RGB", image.size, (250, 250, 250)), (0, 0), layer)
    ImageDraw.Draw(image).text((plate[0] + pad - left, plate[1] + pad), text, fill=(52, 58, 66), font=font(size))
    return np.asarray(image)


def film_strip(
    frames: Iterable[Frame], columns: int = 4, *, times: Sequence[float] | None = None, gap: int = 6
) -> Frame:
    """Lays frames out on one sheet, row by row.

    Args:
        frames: sRGB frames of one size, shape [height, width, 3].
        columns: Frames per row.
        times: Time stamp of each frame [s]; no stamps if None.
        gap: White space between frames [px].

    Returns:
        The sheet, sRGB, shape [sheet_height, sheet_width, 3].
    """
    pictures = list(frames)
    if not pictures or columns < 1:
        raise UsageError(f"film strip: needs at least one frame and one column, got {len(pictures)} and {columns}")
    if times is not None and len(times) != len(pictures):
        raise UsageError(f"film strip: {len(times)} time stamps for {len(pictures)} frames")
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        if picture.shape != pictures[0].shape:
            raise UsageError(f"film strip: frame {index} has shape {picture.shape}, the first {pictures[0].shape}")
        stamped = picture if times is None else caption(picture, f"{times[index]:.2f} s")
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = stamped
    return sheet


def _mp4_options() -> dict[str, object]:
    quality = ["-crf", "18", "-preset", "medium", "-movflags", "+faststart"]
    return {"codec": "libx264", "pix_fmt_out": "yuv420p", "ffmpeg_log_level": "error", "output_params": quality}


def _gif_options(width: int) -> dict[str, object]:
    chain = (
        f"scale={width}:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=160:stats_mode=full[p];"
        "[b][p]paletteuse=dither=bayer:bayer_scale=4:diff_mode=rectangle"
    )
    output = ["-vf", chain, "-loop", "0"]
    return {"codec": "gif", "pix_fmt_out": "pal8", "ffmpeg_log_level": "error", "output_params": output}


def _even(frame: Frame) -> Frame:
    """Repeats the last row or column where needed: yuv420p halves both sides."""
    pad = [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)]
    return np.pad(frame, pad, mode="edge") if pad[0][1] or pad[1][1] else frame
