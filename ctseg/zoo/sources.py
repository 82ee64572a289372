"""Where models may be fetched from: the sources of the user's configuration, or those of the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ctseg.config import Section
from ctseg.config.checking import validate
from ctseg.config.settings import read_toml
from ctseg.errors import BadInput, FileProblem

ENVIRONMENT, FILE = "CTSEG_CONFIG", "sources.toml"
UNPROTECTED = re.compile(r"(^|::)(http|ftp)://")
"""Addresses of which anybody on the way can change what is sent; `fsspec` chains them with `::`."""
SHA256 = r"^[0-9a-f]{64}$"
EXAMPLE = "--from https://HOST/zoo, or --from FOLDER"


class Source(Section):
    """A place with a zoo.

    Attributes:
        url: `https://...`, a folder, or what `fsspec` opens, such as `s3://bucket/zoo`.
        pin: SHA-256 that its index must have; empty to take any.
    """

    url: str
    pin: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme in ("http", "https"):
            if not parts.hostname:
                raise ValueError("the address names no host")
            if parts.username or parts.password:
                raise ValueError("an address with a password would be shown in messages")
            if parts.query or parts.fragment:
                raise ValueError("the address of a folder has no '?' and no '#'")
        if not value.strip() or not value.isprintable():
            raise ValueError("it is no address")
        return value.rstrip("/") or value

    @property
    def scheme(self) -> str:
        """`folder`, `http`, `https`, or one that `fsspec` knows."""
        match = re.match(r"([a-z][a-z0-9+.-]+)(://|::)", self.url)
        return "folder" if match is None or match[1] == "file" else match[1]

    @property
    def protected(self) -> bool:
        """Whether only the owner of the source decides what it sends."""
        return UNPROTECTED.search(self.url) is None

    @property
    def folder(self) -> Path:
        """The folder, where it is one."""
        return Path(self.url.removeprefix("file://")).expanduser()

    def file(self, path: str) -> str:
        """The address of a file below it, for messages and requests."""
        return f"{self.url}/{path}"


class Sources(Section):
    """The file `sources.toml`.

    Attributes:
        offline: take models from folders only.
        source: the zoos, in the order in which they are asked.
    """

    offline: bool = False
    source: tuple[Source, ...] = ()


def sources_file() -> Path:
    """Where the user's sources are listed: in $CTSEG_CONFIG, else in the user's configuration folder."""
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT]).expanduser() / FILE
    import platformdirs

    return Path(platformdirs.user_config_dir("ctseg", appauthor=False)) / FILE


def configured() -> Sources:
    """The user's sources; none where the file does not exist.

    Raises:
        FileProblem, ConfigError: the file cannot be read, or says something impossible.
    """
    file = sources_file()
    if not file.exists():
        return Sources()
    return validate(Sources, read_toml(file, "list of sources"), where=str(file))


def chosen(urls: Sequence[str] = ()) -> list[Source]:
    """The named sources, else those of the user; only folders where the user's file says `offline`.

    Args:
        urls: addresses and folders; `sources.toml` stands for those that it lists.

    Raises:
        BadInput: there is none, or none may be used.
    """
    known = configured()
    pins = {source.url: source.pin for source in known.source}
    found: list[Source] = []
    for url in urls or (FILE,):
        if url == FILE:
            found += known.source
        else:
            one = validate(Source, {"url": url}, where="--from")
            found.append(Source(url=one.url, pin=pins.get(one.url, "")))
    if not found:
        raise BadInput(
            "No source of models is named.",
            hint=f"Name one: {EXAMPLE}; or list it in {sources_file()}",
        )
    usable = [one for one in found if one.scheme == "folder"] if known.offline else found
    if not usable:
        raise FileProblem(
            f"No source may be used: {sources_file()} says offline, and {found[0].url} is no folder.",
            hint=f"Remove offline there, or name a folder: {EXAMPLE}",
        )
    return usable
