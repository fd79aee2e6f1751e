"""Image data sets by Hugging Face name, or from a local folder in a layout that its `datasets` package reads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from baddiffusion.data.folder import read_bytes
from baddiffusion.data.pictures import EncodedPictures, PictureSource
from baddiffusion.data.source import SOURCES, count_of
from baddiffusion.errors import DataError

__all__ = ["CelebaHq", "Cifar10", "Hub"]

USUAL_NAMES = ("image", "img")


@SOURCES.register("hub")
class Hub(PictureSource):
    """Any image data set of the Hugging Face hub, or a local folder of parquet files or of pictures.

    Needs ``pip install 'baddiffusion[data]'``. Downloads and prepared tables go to the user's Hugging Face cache
    (``HF_HOME``), never into the data folder, which may be read-only. Nothing of the data set is executed.

    Args:
        path: ``owner/name`` on the hub, or a local folder; ``~`` is the home folder.
        config: the data set's configuration, where it has several.
        split: ``"train"``, several joined by plus signs (``"train+test"``), a slice (``"train[:1000]"``) or ``"all"``.
        image_column: the column with the pictures; by default the only one, or the one called image or img.
        revision: branch, tag or commit on the hub; pin a commit where numbers are reported.
        limit: use only the first ``limit`` pictures.
        resize: scale every picture to the asked size, bilinear with antialiasing; false makes another size an error.
        center_crop: cut the middle out before, so that nothing is stretched.

    Raises:
        RecipeError: a field is wrong.
    """

    path: str = Field(min_length=1)
    config: str | None = None
    split: str = "train"
    image_column: str | None = None
    revision: str | None = None

    def encoded(self) -> EncodedPictures:
        """Load the table, memory-mapped; decode nothing.

        Raises:
            DataError: `datasets` is not installed; the set, its configuration, split or image column does not exist;
                it cannot be reached; a table is damaged; the limit is too high.
        """
        folder = self._folder()
        source = str(folder or self.path)
        loaded = self._load(source, folder)
        column = _image_column(loaded, self.image_column, source)
        # Bytes are taken from the Arrow column itself: the per-item dictionaries of `datasets` cost more than decoding.
        rows = _Rows(loaded.with_format("arrow")[:].column(column), source)
        size = count_of(f"{source} ({self.split})", len(rows.column), self.limit)
        called = folder.resolve().name if folder else self.path
        return EncodedPictures(f"{called}, {self.split} ({size} images)", size, rows.fetch, rows.origin)

    def _folder(self) -> Path | None:
        path = Path(self.path).expanduser()
        if path.is_dir():
            if self.revision is not None:
                raise DataError(f"revision is {self.revision!r}, but {path} is a local folder; leave revision out.")
            return path
        if path.exists():
            raise DataError(f"{path} is a file; give the folder it lies in, or a data set's name on the hub.")
        if path.is_absolute() or self.path.startswith(".") or self.path.count("/") > 1:
            raise DataError(f"{path} does not exist; give an existing folder, or owner/name for a set on the hub.")
        return None

    def _load(self, source: str, folder: Path | None) -> Any:
        try:
            import datasets
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise DataError(
                f"{self.component_name} needs the package datasets ({error}); "
                "write pip install 'baddiffusion[data]', or use the data set named folder."
            ) from None
        try:
            with _quiet(datasets):
                return datasets.load_dataset(source, self.config, split=self.split, revision=self.revision)
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            raise DataError(_failure(source, self.split, folder, error)) from None


@SOURCES.register("cifar10", aliases={"CIFAR10": {}, "CIFAR-10": {}})
class Cifar10(Hub):
    """CIFAR-10: 32×32, ten kinds of objects, all 60 000 images.

    The reference code trains on train and test together, so the poisoned share is a share of 60 000; set ``split`` to
    ``"train"`` for the usual 50 000.

    Args:
        path: the set on the hub, or a local folder with its parquet files.
        split: as for ``hub``.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    path: str = Field("uoft-cs/cifar10", min_length=1)
    split: str = "train+test"


@SOURCES.register("celeba-hq", aliases={"CELEBA-HQ": {}, "CELEBA_HQ": {}})
class CelebaHq(Hub):
    """CelebA-HQ at 256×256: 30 000 faces.

    The set on the hub is a copy by a third party (28 000 for training and 2 000 for validation, used together here);
    its pixels have not been compared with the original's. A local folder with the pictures serves as well.

    Args:
        path: the set on the hub, or a local folder with its parquet files or pictures.
        split: as for ``hub``.

    Source: Karras, Aila, Laine, Lehtinen, Progressive Growing of GANs, arXiv 1710.10196.
    """

    path: str = Field("korexyz/celeba-hq-256x256", min_length=1)
    split: str = "all"


@dataclass(frozen=True)
class _Rows:
    """A column of pictures: binary, or structs of bytes and path of which one may be missing."""

    column: Any
    source: str

    def fetch(self, index: int) -> bytes:
        data, path = self._parts(index)
        if data is not None and data.is_valid:
            return data.as_py()
        if path is None:
            raise DataError(f"{self.origin(index)} holds no picture; remove the row, or set limit to at most {index}.")
        return read_bytes(Path(path))

    def origin(self, index: int) -> str:
        data, path = self._parts(index)
        if path is not None and not data.is_valid:
            return path
        return f"row {index} of {self.source}" + (f" ({path})" if path else "")

    def _parts(self, index: int) -> tuple[Any, str | None]:
        value = self.column[index]
        if hasattr(value, "keys"):
            return (value["bytes"], value["path"].as_py()) if value.is_valid else (None, None)
        return value, None


@contextmanager
def _quiet(datasets: Any) -> Generator[None, None, None]:
    # The package logs each failure before it raises it; the user is told once, by our message.
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _failure(source: str, split: str, folder: Path | None, error: Exception) -> str:
    cause = error.__cause__ or error
    # A plain ValueError is a wrong split or configuration: no reason to read whole tables in search of damage.
    damaged = _damaged_table(folder) if folder and type(cause) is not ValueError else None
    if damaged is not None:
        return f"{damaged}; replace it by an intact parquet file."
    if folder:
        advice = "check config and split, and that the folder holds parquet files or pictures"
    else:
        advice = "check name, config, split, network and HF_HUB_OFFLINE, or set path to a local folder"
    return f"{source} (split {split}) cannot be loaded ({type(cause).__name__}: {_one_line(cause)}); {advice}."


def _damaged_table(folder: Path) -> str | None:
    import pyarrow
    from pyarrow import parquet

    for file in sorted(folder.rglob("*.parquet")):
        try:
            for _ in parquet.ParquetFile(file).iter_batches():
                pass
        except (pyarrow.ArrowException, OSError) as error:
            return f"{file} is damaged ({_one_line(error)})"
    return None


def _image_column(loaded: Any, asked: str | None, source: str) -> str:
    storage = loaded.features.arrow_schema
    columns = ", ".join(storage.names)
    if asked is not None:
        if asked not in storage.names:
            raise DataError(f"image_column is {asked!r}; {source} has the columns {columns}.")
        if not _holds_pictures(storage.field(asked).type):
            raise DataError(f"image_column is {asked!r}, which holds no pictures; {source} has the columns {columns}.")
        return asked
    images = [name for name, feature in loaded.features.items() if type(feature).__name__ == "Image"]
    if len(images) != 1:
        among = images or [name for name in storage.names if _holds_pictures(storage.field(name).type)]
        images = [name for name in USUAL_NAMES if name in among]
    if len(images) != 1:
        raise DataError(f"{source} has no single column of pictures; set image_column to one of: {columns}.")
    return images[0]


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return {kind.field(index).name for index in range(kind.num_fields)} == {"bytes", "path"}
    return types.is_binary(kind) or types.is_large_binary(kind)
