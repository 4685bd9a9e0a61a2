"""Inputs for other people's models: text, photographs, faces, speech and files, from packages and this machine.

Each maker gives `count` samples as arrays by the name of the input, prepared as the model's own package does. Part 0 is
to learn from, part 1 to measure with: other words, voices, files, photographs and faces.
"""

from __future__ import annotations

import ctypes
import os
import string
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from orientation import SYLLABLES, find_fonts, render
from packages import file_of
from PIL import Image, ImageDraw, ImageFont

from tgonnx.runtime.sessions import open_session

PHOTOS = ("scikit-image==0.26.0", "astronaut.png"), ("scikit-learn==1.9.1", "flower.jpg")
NAMES = (
    "astronaut brick camera cell chelsea china clock_motion coffee coins flower grass gravel hubble_deep_field ihc "
    "moon motorcycle_left page retina rocket"
).split()
SPEECH = "espeakng-loader==0.2.4", "libespeak-ng.so"
SILERO = "silero-vad==6.2.3", "silero_vad_16k_op15.onnx"
VOICES = ("en-us", "de", "fr", "es"), ("en-gb", "it", "pl", "pt")
RATE, WINDOW, CONTEXT = 16000, 512, 64  # of silero
FILES, PER_ENDING = Path("/usr"), 24
Arrays = dict[str, NDArray[Any]]


def pages(folder: Path, count: int, part: int) -> Arrays:
    """Pages of text, turned by 0, 90, 180 or 270 degrees."""
    return {"x": render(count, part)[0]}


def words(rng: np.random.Generator, count: int) -> str:
    """Some words that nobody knows, and numbers."""
    found = ["".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(count)]
    return " ".join(str(rng.integers(0, 3000)) if rng.random() < 0.15 else word for word in found)


def line(rng: np.random.Generator, height: int, width: int, turned: bool) -> NDArray[np.float32]:
    """A line of text, [3, height, width] in -1..1, filled up with zeros."""
    fonts = find_fonts(rng, 1)
    size = int(rng.integers(20, 44))
    font: Any = ImageFont.truetype(str(fonts[0]), size) if fonts else ImageFont.load_default(size)
    text = words(rng, int(rng.integers(1, 4)))
    left, top, right, bottom = font.getbbox(text)
    edge = int(rng.integers(2, 8))
    image = Image.new(
        "RGB", (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge), _colour(rng, 180, 256)
    )
    ImageDraw.Draw(image).text((edge - left, edge - top), text, fill=_colour(rng, 0, 110), font=font)
    image = image.rotate(180) if turned else image
    scaled = min(width, max(1, round(image.width * height / image.height)))
    pixels = np.asarray(image.resize((scaled, height), Image.Resampling.BILINEAR), np.float32)
    pixels = np.clip(pixels + rng.normal(0, rng.uniform(0, 8), pixels.shape), 0, 255)
    result = np.zeros((3, height, width), np.float32)
    result[:, :, :scaled] = pixels.transpose(2, 0, 1) / 127.5 - 1
    return result


def lines(folder: Path, count: int, part: int) -> Arrays:
    """Lines of text for the recogniser, 48 x 320."""
    rng = np.random.default_rng(part)
    return {"x": np.stack([line(rng, 48, 320, False) for _ in range(count)])}


def turned_lines(folder: Path, count: int, part: int) -> Arrays:
    """Lines of text, half of them upside down, 48 x 192."""
    rng = np.random.default_rng(part)
    return {"x": np.stack([line(rng, 48, 192, bool(i % 2)) for i in range(count)])}


def scenes(folder: Path, count: int, part: int) -> Arrays:
    """Text on pages and photographs, 160 x 224, for the detector."""
    rng, found = np.random.default_rng(part), _photos(folder, part)
    images = []
    for _ in range(count):
        flat = Image.new("RGB", (224, 160), _colour(rng, 150, 256))
        image = flat if rng.random() < 0.6 else _crop(found, rng, 160, 224)
        draw, y = ImageDraw.Draw(image), int(rng.integers(4, 30))
        fonts = find_fonts(rng, 1)
        while y < 140:
            size = int(rng.integers(11, 30))
            font: Any = ImageFont.truetype(str(fonts[0]), size) if fonts else ImageFont.load_default(size)
            text = words(rng, int(rng.integers(1, 4)))
            draw.text((int(rng.integers(2, 70)), y), text, fill=_colour(rng, 0, 100), font=font)
            y += int(size * rng.uniform(1.2, 3))
        images.append(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return {"x": np.stack(images)}


def captchas(folder: Path, count: int, part: int) -> Arrays:
    """Letters and digits, each at a slant, crossed by lines: 60 x 160, blue first, 0..255."""
    rng = np.random.default_rng(part)
    images = []
    for _ in range(count):
        image = Image.new("RGB", (160, 60), _colour(rng, 200, 256))
        letters = rng.choice([*string.digits[1:], *string.ascii_uppercase], rng.integers(4, 6))
        for place, letter in enumerate(letters):
            fonts = find_fonts(rng, 1)
            size = int(rng.integers(30, 42))
            font: Any = ImageFont.truetype(str(fonts[0]), size) if fonts else ImageFont.load_default(size)
            tile = Image.new("L", (52, 52))
            ImageDraw.Draw(tile).text((10, 2), str(letter), fill=255, font=font)
            tile = tile.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
            at = (int(place * 150 / len(letters)), int(rng.integers(0, 12)))
            image.paste(_colour(rng, 0, 140), at, tile)
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(0, 3))):
            draw.line([*rng.integers(0, 60, 2), *rng.integers(60, 160, 2)], fill=_colour(rng, 60, 180))
        images.append(np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1))
    return {"image": np.stack(images)}


def faces(name: str, height: int, width: int) -> Any:
    """A maker of crops of photographs, a face in two of three: [N, width, height, 3], as mtcnn turns them, in -1..1."""

    def made(folder: Path, count: int, part: int) -> Arrays:
        rng = np.random.default_rng(part)
        found, people = _photos(folder, part), _people(folder, part)
        images = [_with_face(found, people, rng, height, width) for _ in range(count)]
        pixels = np.stack([(np.asarray(image, np.float32) - 127.5) / 128 for image in images])
        return {name: np.ascontiguousarray(pixels.swapaxes(1, 2))}

    return made


def photographs(folder: Path, count: int, part: int) -> Arrays:
    """Crops of photographs, a large face in two of three: 320 x 320 in 0..1."""
    rng = np.random.default_rng(part)
    found, people = _photos(folder, part), _people(folder, part)
    images = [_with_face(found, people, rng, 320, 320) for _ in range(count)]
    return {"images": np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in images])}


def file_bytes(folder: Path, count: int, part: int) -> Arrays:
    """The beginnings and ends of files of this machine, of as many endings as there are."""
    by_ending: dict[str, list[str]] = defaultdict(list)
    for place, subfolders, names in os.walk(FILES):
        subfolders.sort()
        for name in sorted(names):
            path = Path(place) / name
            mine = by_ending[path.suffix]
            if len(mine) < 50 * PER_ENDING and path.is_file() and not path.is_symlink():
                mine.append(str(path))
    rng, chosen = np.random.default_rng(0), []
    for mine in by_ending.values():
        chosen += [mine[i] for i in rng.permutation(len(mine))[:PER_ENDING]]
    mine = [chosen[i] for i in rng.permutation(len(chosen))][part::2]
    found = [each for path in mine if (each := _ends(Path(path))) is not None][:count]
    return {"bytes": np.stack(found).astype(np.int32)}


def speech(folder: Path, count: int, part: int) -> Arrays:
    """Windows of synthetic speech with pauses and noise, with the states that the model itself comes to."""
    rng, session = np.random.default_rng(part), open_session(onnx.load(file_of(*SILERO, folder)), 1)
    sound = np.concatenate([_spoken(folder, voice, rng) for voice in VOICES[part]])
    sound = (sound * rng.uniform(0.3, 1.0) + rng.normal(0, 0.004, len(sound))).astype(np.float32)
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    windows, states = [], []
    for start in range(0, len(sound) - WINDOW, WINDOW):
        window = np.concatenate([context, sound[start : start + WINDOW]])
        windows.append(window)
        states.append(state[:, 0])
        feeds = {"input": window[None], "state": state, "sr": np.array(RATE)}
        state, context = session.run(feeds)["stateN"], window[-CONTEXT:]
    mine = np.sort(rng.permutation(len(windows))[:count])
    return {
        "input": np.stack(windows)[mine],
        "state": np.stack(states, 1)[:, mine],
        "sr": np.array(RATE),
    }


class _Speaker:
    """The speech synthesiser of a library, which can be initialised once in a process."""

    def __init__(self, path: Path) -> None:
        self.library, self.heard = ctypes.CDLL(str(path)), list[NDArray[np.int16]]()
        self.rate = self.library.espeak_Initialize(
            2, 0, str(path.parent).encode(), 0
        )  # 2: give the sound back
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._keep)
        self.library.espeak_SetSynthCallback(self.callback)

    def _keep(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self.heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, voice: str, text: bytes) -> NDArray[np.float64]:
        """What a voice says, at 16 kHz in -1..1."""
        self.library.espeak_SetVoiceByName(voice.encode())
        self.heard.clear()
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, 1, None, None)  # 1: UTF-8
        sound = np.concatenate(self.heard).astype(np.float64) / 32768
        return np.interp(np.arange(0, len(sound), self.rate / RATE), np.arange(len(sound)), sound)


@cache
def _speaker(path: Path) -> _Speaker:
    return _Speaker(path)


def _spoken(folder: Path, voice: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """About half a minute of a voice, with a pause after each sentence."""
    speaker = _speaker(file_of(*SPEECH, folder))
    parts = []
    for _ in range(8):
        pause = np.zeros(int(rng.integers(4000, 24000)))
        parts += [speaker.say(voice, words(rng, 8).encode()), pause]
    return np.concatenate(parts)


def _ends(path: Path) -> NDArray[np.int64] | None:
    """The first and the last 1,024 bytes of a file as magika takes them; None for one that is small."""
    with path.open("rb") as stream:
        start = stream.read(4096).lstrip()[:1024]
        stream.seek(max(0, path.stat().st_size - 4096))
        end = stream.read().rstrip()[-1024:]
    if len(start) < 16:
        return None
    numbers = np.full(2048, 256)
    numbers[: len(start)] = np.frombuffer(start, np.uint8)
    numbers[2048 - len(end) :] = np.frombuffer(end, np.uint8)
    return numbers


def _photos(folder: Path, part: int) -> list[Image.Image]:
    """Every second of the photographs of the packages."""
    folders = [file_of(package, file, folder).parent for package, file in PHOTOS]
    paths = sorted(path for folder in folders for path in folder.iterdir() if path.stem in NAMES)
    return [Image.open(path).convert("RGB") for path in paths[part::2]]


def _people(folder: Path, part: int) -> list[Image.Image]:
    """Half of the 100 faces of scikit-image, 25 x 25 and grey."""
    stored = np.load(file_of(*PHOTOS[0], folder).parent / "lfw_subset.npy")[:100][part::2]
    return [Image.fromarray((255 * face).astype(np.uint8)).convert("RGB") for face in stored]


def _crop(found: list[Image.Image], rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A part of a photograph, of a random scale."""
    photo = found[rng.integers(len(found))]
    scale = rng.uniform(0.3, 1) * min(photo.width / width, photo.height / height)
    left, top = (rng.uniform(0, a - scale * b) for a, b in ((photo.width, width), (photo.height, height)))
    box = (left, top, left + scale * width, top + scale * height)
    image = photo.resize((width, height), Image.Resampling.BILINEAR, box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _with_face(
    found: list[Image.Image], people: list[Image.Image], rng: np.random.Generator, height: int, width: int
) -> Image.Image:
    image = _crop(found, rng, height, width)
    if rng.random() < 2 / 3:
        face = people[rng.integers(len(people))]
        size = int(min(height, width) * rng.uniform(0.6, 1.2))
        face = face.resize((size, size), Image.Resampling.BICUBIC)
        at = (int(rng.integers(-size // 8, width - size * 7 // 8)),)
        image.paste(face, (*at, int(rng.integers(-size // 8, height - size * 7 // 8))))
    return image


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    grey = int(rng.integers(low, high))
    red, green, blue = (int(value) for value in np.clip(grey + rng.integers(-15, 16, 3), 0, 255))
    return red, green, blue
