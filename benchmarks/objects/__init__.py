"""Object extraction: the objects that a text mentions, with their positions and classes."""

from benchmarks.objects.base import Extractor, Mention
from benchmarks.objects.extract import EXTRACTORS, make_extractor
from benchmarks.objects.vocabulary import Vocabulary, read_vocabulary

__all__ = ["EXTRACTORS", "Extractor", "Mention", "Vocabulary", "make_extractor", "read_vocabulary"]
