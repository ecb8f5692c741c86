"""From a record's image value to a checked `ImageRef`: the image exists, is inside the folder, and decodes."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligners.preferences.cells import CellImage, SourceCell, encoded
from aligners.preferences.formats.base import BadRecordError, shown, single
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_bytes
from harness.core.images import ImageFacts
from harness.core.inside import Folder, resolved
from harness.core.typed import kind_of
from harness.core.types import ImageRef

_LONGEST_PATH = 4096
_ATTEMPTS = 3
MOST_BYTES = 64 << 20
"""Maximum size of a downloaded image in bytes."""


class Pictures:
    """Finds and checks images; a file in many records is checked once. Safe to use from several threads."""

    def __init__(
        self,
        root: Path,
        cache: Path | None = None,
        allow_download: bool = False,
        image_root: Path | None = None,
        store: Path | None = None,
    ) -> None:
        """Begin.

        Args:
            root: the data folder; image paths must not leave it, except into `image_root`.
            cache: folder of downloaded images, by URL.
            allow_download: download images that are given by URL and are not in the cache; else they are refused.
            image_root: another folder that image paths may be relative to, or lie in.
            store: another folder that links in `root` may lead to.
        """
        self.root, self.cache, self.allow_download = root, cache, allow_download
        self._roots = [root, *([image_root] if image_root else [])]
        self._folders = [Folder(folder) for folder in (*self._roots, *([store] if store else []))]
        self._seen: dict[Path, ImageRef] = {}
        self._facts: dict[str, ImageFacts] = {}
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def find(self, value: Any, folder: Path, name: str) -> ImageRef:
        """The image of a record.

        Args:
            value: a path, a URL, bytes, {bytes, path}, base64, a data URL, a list of one of these, or a cell with one of these.
            folder: folder of the data file; paths are relative to it, or to the root.
            name: name of the image in errors if it has no own name.

        Raises:
            BadRecordError: there is none, or it cannot be used.
        """
        cell = value if isinstance(value, SourceCell) else None
        item: int | None = None
        if cell:
            value = cell.checked()
        if isinstance(value, list):
            value, item = single(value), 0
        return self._found(value, cell, item, folder, name)

    def find_all(self, value: Any, folder: Path, name: str) -> list[ImageRef]:
        """The images of a list, each as `find` takes it.

        Raises:
            BadRecordError: it is no list, or one cannot be used.
        """
        cell = value if isinstance(value, SourceCell) else None
        images = cell.checked() if cell else value
        if not isinstance(images, list):
            raise BadRecordError(f"{name}: this is {kind_of(images)}, not a list of images")
        return [self._found(one, cell, item, folder, f"{name}, {item + 1}") for item, one in enumerate(images)]

    def _found(self, value: Any, cell: SourceCell | None, item: int | None, folder: Path, name: str) -> ImageRef:
        """An image by its value, which is item `item` of the cell if that has a list."""
        if isinstance(value, Mapping):
            name = _stored_name(value.get("path")) or name
            value = value["bytes"] if value.get("bytes") else value.get("path")
        if value is None or value in ("", b""):
            raise BadRecordError("there is no image")
        if not isinstance(value, (str, bytes)):
            raise BadRecordError(f"the image is {kind_of(value)}, not a path, bytes or base64")
        if isinstance(value, bytes) or value.startswith("data:"):
            return self._inside(value, cell, item, name)
        if "://" in value[:20]:
            return self._file(self._fetched(value), value)
        path = self._path(value, folder)
        if path is None:
            return self._inside(value, cell, item, name)
        return self._file(path, value)

    def facts(self, image: ImageRef) -> ImageFacts:
        """Facts from checking the image."""
        return self._facts[image.fingerprint()]

    def _inside(self, value: str | bytes, cell: SourceCell | None, item: int | None, name: str) -> ImageRef:
        """An image inside the data file."""
        try:
            data = encoded(value)
        except ValueError:
            raise BadRecordError(f"the image is neither a file nor valid base64: {shown(value)}") from None
        digest = sha256_bytes(data)
        if cell:
            self._look(ImageRef(data=data, name=name, digest=digest))
            return ImageRef(source=CellImage(cell, item), name=name, digest=digest)
        return self._look(ImageRef(data=data, name=name, digest=digest))

    def _file(self, path: Path, name: str) -> ImageRef:
        with self._lock:
            image = self._seen.get(path)
        if image is None:
            try:
                data = ImageRef(path=path, name=name).read()
            except BadInputError as error:
                raise BadRecordError(error.problem) from None
            digest = sha256_bytes(data)
            self._look(ImageRef(data=data, name=name, digest=digest))
            image = ImageRef(path=path, name=name, digest=digest)
            with self._lock:  # keep the first one, so that one file is one image, whose features are computed once
                image = self._seen.setdefault(path, image)
        return image

    def _look(self, image: ImageRef) -> ImageRef:
        try:
            facts = image.facts()
        except BadInputError as error:
            raise BadRecordError(error.problem) from None
        with self._lock:
            self._facts[image.digest] = facts
        return image

    def _path(self, value: str, folder: Path) -> Path | None:
        """The file, or None if the text is base64."""
        if len(value) <= _LONGEST_PATH and "\0" not in value:
            for base in dict.fromkeys((folder, *self._roots)):
                for spelt in dict.fromkeys((value, value.replace("\\", "/"))):  # also as Windows separates folders
                    path = _resolved(base / spelt)
                    if path and self._inside_roots(path) and path.is_file():
                        return path
        if len(value) > 256 and "." not in value:
            return None
        path = _resolved(folder / value[:_LONGEST_PATH].replace("\0", ""))
        if path is None:
            raise BadRecordError(f"the image path cannot be followed (too long, or a loop of links): {shown(value)}")
        if not self._inside_roots(path):
            raise BadRecordError(
                f"the image path leaves the data folder: {shown(value)} "
                f"(to allow a folder with images: --image-root {path.parent})"
            )
        if path.exists() and not path.is_file():
            raise BadRecordError(f"the image is not a file but a folder, a pipe or a device: {shown(value)}")
        raise BadRecordError(f"the image file does not exist: {shown(value)}")

    def _inside_roots(self, path: Path) -> bool:
        return any(folder.holds(path) for folder in self._folders)

    def _fetched(self, url: str) -> Path:
        """The file of a URL: from the cache, or downloaded if allowed."""
        if not url.startswith(("http://", "https://")):
            raise BadRecordError(f"the image has a URL of a kind that is not downloaded: {shown(url)}")
        path = self.cache / "preferences" / "fetched" / sha256_bytes(url.encode()) if self.cache else None
        if path and path.is_file():
            return path
        if not path or not self.allow_download:
            raise BadRecordError(
                f"the image is a URL, and URLs are not downloaded by default: {shown(url)} "
                "(--allow-download fetches images once, of harness align and of harness data check)"
            )
        from harness.datasets.download import fetch

        try:
            with self._lock:
                one_at_a_time = self._fetching[url]
            with one_at_a_time:
                if not path.is_file():
                    fetch(url, path, attempts=_ATTEMPTS, most_bytes=MOST_BYTES, bar=False)
        except HarnessError as error:
            raise BadRecordError(f"the image could not be downloaded: {error.problem}: {shown(url)}") from None
        return path


def _stored_name(path: Any) -> str:
    """The name of an image inside a data file, by the path that is stored with it; "" without one.

    The path is kept whole, because a COCO number at its end may be all that shows that an evaluation suite asks about the image. The end
    of a text that is longer than any path is enough.
    """
    if isinstance(path, str):
        return path[-_LONGEST_PATH:]
    return shown(path) if path else ""


def _resolved(path: Path) -> Path | None:
    """The resolved path; None if it cannot be followed."""
    target = resolved(path)
    try:
        if target is not None:
            target.exists()
    except (OSError, ValueError):  # a text that is too long for a name
        return None
    return target
