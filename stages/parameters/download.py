"""Settings of the download stage: where the images come from."""

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from stages.parameters.section import Section

Source = Literal[
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "archive",
    "folder",
    "csv",
    "parquet",
]


class Columns(Section):
    """Names of the columns of a table of labels (csv and parquet sources)."""

    file: str = "file"
    label: str = "label"
    split: str = "split"
    group: str | None = None


class Download(Section):
    source: Source = "digits"
    path: str = Field("data/inbox", min_length=1)
    url: str | list[str] | None = None
    sha256: str | list[str] | None = None
    table: str = Field("labels.csv", min_length=1)
    columns: Columns = Columns()
    label_pattern: str | None = Field(None, min_length=1)
    corrections: str = Field("data/corrections.csv", min_length=1)

    @property
    def urls(self) -> list[str]:
        """`url` as a list, empty for none."""
        return _as_list(self.url)

    @property
    def pins(self) -> list[str]:
        """`sha256` as a list, in lower case, in the order of `urls`; empty for none."""
        return [pin.lower() for pin in _as_list(self.sha256)]

    @field_validator("path", "table", "corrections")
    @classmethod
    def _a_possible_path(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path cannot hold the character NUL")
        return path

    @field_validator("label_pattern")
    @classmethod
    def _a_regular_expression(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _label_pattern_suits_source(self) -> Self:
        if self.label_pattern is not None and self.source not in ("archive", "folder"):
            raise ValueError(f"label_pattern goes with source folder or archive, not {self.source}")
        return self

    @model_validator(mode="after")
    def _url_suits_source(self) -> Self:
        if self.url is not None and self.source not in ("archive", "parquet", "csv", "folder"):
            raise ValueError(
                f"url goes with source archive, csv, parquet or folder, not {self.source}"
            )
        if self.source == "csv" and len(self.urls) > 1:
            raise ValueError("source csv takes one url: an archive of the images and the table")
        if self.source == "folder" and len(self.urls) > 1:
            raise ValueError("source folder takes one url: of the folder that holds the classes")
        for url in self.urls:
            if self.source == "folder" and re.match("https?:", url):
                raise ValueError(
                    f"nothing lists the files of {url}; source folder takes s3://, ..."
                )
            if not re.match(r"[a-z0-9+.-]+://.", url):
                raise ValueError(f"url {url!r} should begin with https://, s3:// or gs://")
            try:
                urlsplit(url).port  # noqa: B018 - raises for what is no address
            except ValueError as error:
                raise ValueError(f"url {url!r} is no address: {error}") from None
        if self.url == []:
            raise ValueError("url is an empty list; null stands for none")
        return self

    @model_validator(mode="after")
    def _sha256_suits_url(self) -> Self:
        for pin in self.pins:
            if not re.fullmatch("[0-9a-f]{64}", pin):
                raise ValueError(f"sha256 {pin!r} should be 64 hexadecimal digits")
        if self.pins and self.source == "folder":
            raise ValueError("sha256 pins files, not a folder; set it to null")
        if self.pins and self.url is None and self.source != "archive":
            raise ValueError("sha256 goes with a url, or with source archive")
        if self.pins and len(self.pins) != max(len(self.urls), 1):
            raise ValueError(
                f"{len(self.pins)} sha256 for {max(len(self.urls), 1)} files; give one for each"
            )
        return self


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []
