"""Pictures of results that are there already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction

from hybridprompt.errors import HybridPromptError
from hybridprompt.evaluate.cache import EncodeCache
from hybridprompt.evaluate.methods import Method, MethodName, Reference
from hybridprompt.evaluate.records import Record
from hybridprompt.evaluate.references import open_reference
from hybridprompt.evaluate.settings import EvaluateSettings, find_clips
from hybridprompt.video.picture import Picture

_log = logging.getLogger(__name__)


class StoredPictures:
    """Pictures of results, decoded again from the cache, for the report."""

    def __init__(
        self, settings: EvaluateSettings, cache: EncodeCache, make_method: Callable[[MethodName], Method]
    ) -> None:
        self._settings, self._cache, self._make_method = settings, cache, make_method
        self._clips = {path.stem: path for path in find_clips(settings.clips)}
        self._references: dict[str, Reference | None] = {}

    def decoded(self, record: Record, frames: list[int]) -> dict[int, Picture] | None:
        """What a result shows at frames; None where its encode is gone."""
        reference = self._reference(record["clip"])
        entry = None if record["error"] is not None else self._cache.get(record["settings"]["encode_key"])
        if reference is None or entry is None:
            return None
        try:
            method = self._make_method(_name_of(record))
            return _at(method.decode(reference, entry.path, frozenset(frames)), frames)
        except HybridPromptError as error:
            _log.warning("no pictures of %s: %s", record["method"], error)
            return None

    def source(self, record: Record, frames: list[int]) -> dict[int, Picture] | None:
        """The source pictures of a result at frames; None where the clip cannot be read."""
        reference = self._reference(record["clip"])
        return None if reference is None else _at(reference.pictures(), frames)

    def _reference(self, clip: str) -> Reference | None:
        if clip not in self._references:
            try:
                settings = self._settings
                self._references[clip] = open_reference(
                    self._clips[clip], settings.seconds, self._cache, start_share=settings.start_share
                )
            except (HybridPromptError, OSError, LookupError) as error:
                _log.debug("no pictures of %s: %s", clip, error)
                self._references[clip] = None
        return self._references[clip]


def _name_of(record: Record) -> MethodName:
    return MethodName(record["method"].partition("@")[0], Fraction(record["scale"]))


def _at(pictures: Iterator[Picture], frames: list[int]) -> dict[int, Picture]:
    found: dict[int, Picture] = {}
    for index, picture in enumerate(pictures):
        if index in frames:
            found[index] = picture.copied()
        if index >= max(frames, default=0):
            break
    return found
