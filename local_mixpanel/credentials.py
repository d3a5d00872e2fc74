"""Who may ask: https://docs.mixpanel.com/reference/raw-data-export-api-authentication"""

import base64
import binascii
from dataclasses import dataclass
from enum import Enum, auto


class Identity(Enum):
    """What a Basic Authorization header proved."""

    SERVICE_ACCOUNT = auto()
    PROJECT_SECRET = auto()
    PROJECT_TOKEN = auto()
    NOBODY = auto()


@dataclass(frozen=True)
class Credentials:
    """All that opens the project."""

    project_id: str
    username: str
    secret: str
    project_secret: str
    token: str | None

    def identify(self, authorization: str | None) -> Identity:
        """Tell whose credentials a Basic Authorization header carries."""
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return Identity.NOBODY
        try:
            pair = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return Identity.NOBODY
        identities = {
            f"{self.username}:{self.secret}": Identity.SERVICE_ACCOUNT,
            f"{self.project_secret}:": Identity.PROJECT_SECRET,
        }
        if self.token is not None:
            identities[f"{self.token}:"] = Identity.PROJECT_TOKEN
        return identities.get(pair, Identity.NOBODY)
