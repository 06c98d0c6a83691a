"""No secret leaves the process: passwords in URIs, tokens in query strings, keys of the environment.

`SkippyError`, the tracking store and the log pass their text through `redact`. What a person typed is handed to
child stages by the environment instead (`hide_credentials`, `reveal_credentials`), because `mlflow run` stores
every declared parameter as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from urllib.parse import unquote

HIDDEN = "***"
CREDENTIALS_VARIABLE = "SKIPPY_CREDENTIALS"
"""JSON: `name=redacted text` → the text as typed; for child stages, never for the store."""
SHORTEST_SECRET = 6
"""A shorter value of a variable would blank out ordinary words."""

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^\s/?#\"'<>]*@")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#:@]*:(?P<password>[^\s/?#]*)@")
_QUERY = re.compile(
    r"(?P<name>[?&](?:[^=&\s\"']*[_\-])?(?:token|key|apikey|secret|password|passwd|pwd|sig|signature|credential|auth)=)"
    r"[^&\s\"'<>#]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<kind>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=\-]{8,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{16,}|hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})"
)
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` with every secret it holds replaced by `***`; text without one comes back unchanged."""
    text = redact_known(text)
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<name>{HIDDEN}", text)
    text = _HEADER.sub(rf"\g<kind>{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def redact_known(text: str) -> str:
    """`text` without the secrets of this process's environment; what merely looks like one stays.

    For what models said and people wrote, which has to be kept as it is.
    """
    for secret in known_secrets(os.environ):
        text = text.replace(secret, HIDDEN)
    return text


def known_secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of variables that are named like secrets, and passwords inside URIs of any variable; longest first."""
    found: set[str] = set()
    for name in list(environment):
        value = environment.get(
            name, ""
        )  # gone by now, where another thread cleans up: MLflow's telemetry does
        if name == CREDENTIALS_VARIABLE:
            continue
        if _SECRET_NAME.search(name) and not value.startswith(("/", "~")) and not value.isdigit():
            found.add(value)  # a path or a number is where a secret is, or how long it may be
        for match in _PASSWORD.finditer(value):
            found |= {match["password"], unquote(match["password"])}
    return sorted((secret for secret in found if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)


def hide_credentials(parameters: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters of a child stage without secrets, and the environment that gives them back to it."""
    hidden = {name: redact(value) for name, value in parameters.items()}
    known = json.loads(os.environ.get(CREDENTIALS_VARIABLE) or "{}")
    known |= {f"{name}={hidden[name]}": value for name, value in parameters.items() if hidden[name] != value}
    return hidden, {CREDENTIALS_VARIABLE: json.dumps(known)} if known else {}


def reveal_credentials(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters as the person typed them, where a parent stage hid something."""
    known = json.loads(os.environ.get(CREDENTIALS_VARIABLE) or "{}")
    return {name: known.get(f"{name}={value}", value) for name, value in parameters.items()}


class RedactingFilter(logging.Filter):
    """Keeps secrets out of a log handler, whoever logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message; every record passes."""
        text = record.getMessage()
        clean = redact(text)
        if clean != text:
            record.msg, record.args = clean, ()
        return True
