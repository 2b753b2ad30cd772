"""Settings of the download stage: where the images come from."""

from typing import Literal

from pydantic import Field, model_validator

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

    @model_validator(mode="after")
    def _url_suits_source(self):
        if self.url is not None and self.source not in ("archive", "parquet", "csv"):
            raise ValueError(f"url goes with source archive, csv or parquet, not {self.source}")
        return self
