"""Answers spoken: text to any OpenAI-compatible speech endpoint, sound to the loudspeaker or to files."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from skippy.resolve.files import require_urls

logger = logging.getLogger(__name__)

SPEECH_SECONDS = 120.0
PLAYERS = (
    ("aplay", "-q"),
    ("paplay",),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "quiet"),
    ("afplay",),
)
"""Programs that play a WAV file; the first that is installed is used."""


class Speaker:
    """Says what it is given; a voice that fails is warned of once, and the text goes on."""

    def __init__(
        self, url: str, *, voice: str = "default", folder: Path | None = None, api_key: str = ""
    ) -> None:
        require_urls(url, "voice_url")
        self._url, self._voice, self._folder = url.rstrip("/"), voice, folder
        self._key = api_key or "unused"
        self._count = 0
        self._has_failed = False

    def say(self, text: str) -> Path | None:
        """Speak `text`; where the sound went, None where there is none or it was played."""
        if self._has_failed or not text.strip():
            return None
        try:
            sound = fetch_speech(self._url, text, self._voice, self._key)
            if self._folder:
                return self._keep(sound, self._folder)
            self._play(sound)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._has_failed = True
            logger.warning(
                "the voice at %s does not speak (%s); the text goes on without it. skippy voice starts one",
                *(self._url, error),
            )
        return None

    def _keep(self, sound: bytes, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        path = folder / f"answer_{self._count:03d}.wav"
        path.write_bytes(sound)
        return path

    def _play(self, sound: bytes) -> None:
        player = next((words for words in PLAYERS if shutil.which(words[0])), None)
        if player is None:
            names = ", ".join(words[0] for words in PLAYERS)
            raise OSError(f"no player is installed: {names}; --voice-folder DIR keeps WAV files instead")
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            file.write(sound)
            file.flush()
            subprocess.run([*player, file.name], check=True, timeout=SPEECH_SECONDS, capture_output=True)


def fetch_speech(url: str, text: str, voice: str, api_key: str = "unused") -> bytes:
    """WAV of `text`, from a speech endpoint.

    Raises:
        OSError: nobody answers, or it refuses.
        ValueError: what comes back is no WAV.
    """
    body = {"model": "tts-1", "input": text, "voice": voice, "response_format": "wav"}
    headers = {"content-type": "application/json", "Authorization": f"Bearer {api_key}"}
    asked = urllib.request.Request(f"{url}/audio/speech", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=SPEECH_SECONDS) as answer:
            sound = bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise OSError(f"HTTP {error.code}: {error.read(300).decode(errors='replace')}") from error
    if not sound.startswith(b"RIFF"):
        raise ValueError(f"no WAV but {sound[:20]!r}")
    return sound
