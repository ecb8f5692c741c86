"""Open-vocabulary detectors and segmenters of transformers: Grounding DINO, OWLv2, SAM, and SAM 3, which does both.

Images in a batch must not influence each other: images that a model would pad to a common size share a forward pass only if their sizes
are equal, so that other images change a box only by rounding errors; and boxes are rounded to whole pixels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from aligners.rejected_images.boxes import Box, Located, RegionQuery, box_mask
from harness.models import devices

if TYPE_CHECKING:
    from aligners.rejected_images.settings import ImagePreferenceSettings

T = TypeVar("T")
_CHINESE = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
"""The characters that BERT's tokenizer separates by blanks."""


@dataclass(frozen=True)
class Detection:
    """A keyword's box in pixels, and the detector's score."""

    keyword: str
    box: Box
    score: float


class Detector(Protocol):
    """Finds boxes for phrases. `name` is its folder or hub id; `one_size`: images of one pass must have equal sizes."""

    name: str
    one_size: bool

    def detect(self, pictures: Sequence[Any], phrases: Sequence[list[str]]) -> list[list[Detection]]:
        """One forward pass or a few; every picture has at least one phrase."""


class Segmenter(Protocol):
    """Refines boxes to masks."""

    name: str

    def segment(self, pictures: Sequence[Any], boxes: Sequence[list[Box]]) -> list[list[np.ndarray]]:
        """Bool masks [height, width], one per box; every picture has at least one box."""


class Detected:
    """A detector with an optional segmenter; without one, the masks are the boxes."""

    def __init__(self, detector: Detector, segmenter: Segmenter | None, batch_size: int) -> None:
        self.detector, self.segmenter, self.batch_size = detector, segmenter, batch_size
        self.models = {"detector": detector.name} | ({"segmenter": segmenter.name} if segmenter else {})

    def locate(self, asked: Sequence[RegionQuery]) -> list[list[Located]]:
        """Boxes for all keywords of an image at once, then masks for all of its boxes at once."""
        detections: list[list[Detection]] = [[] for _ in asked]
        sought = [number for number, query in enumerate(asked) if query.keywords]
        for group in _groups(
            sought, self.batch_size, lambda number: asked[number].picture.size if self.detector.one_size else None
        ):
            phrases = [[keyword.phrase for keyword in asked[number].keywords] for number in group]
            hits = self.detector.detect([asked[number].picture for number in group], phrases)
            for number, hit in zip(group, hits, strict=True):
                detections[number] = hit
        masks: list[list[np.ndarray]] = [[] for _ in asked]
        hit_numbers = [number for number, hit in enumerate(detections) if hit]
        for group in _groups(hit_numbers, self.batch_size, lambda number: None):
            for number, drawn in zip(
                group, self._masks([(asked[n].picture, detections[n]) for n in group]), strict=True
            ):
                masks[number] = drawn
        return [
            [Located(hit.keyword, hit.box, mask, hit.score) for hit, mask in zip(*pair, strict=True)]
            for pair in zip(detections, masks, strict=True)
        ]

    def _masks(self, pairs: Sequence[tuple[Any, list[Detection]]]) -> list[list[np.ndarray]]:
        plain = [[box_mask(hit.box, picture.width, picture.height) for hit in hits] for picture, hits in pairs]
        if self.segmenter is None:
            return plain
        drawn = self.segmenter.segment(
            [picture for picture, _ in pairs], [[hit.box for hit in hits] for _, hits in pairs]
        )
        # An empty mask is replaced by its box, because the region was found, but not its outline.
        return [
            [mask if mask.any() else box for mask, box in zip(*both, strict=True)]
            for both in zip(drawn, plain, strict=True)
        ]


class Pretrained:
    """A processor and a model, with their device and precision."""

    role: ClassVar[str]
    """`detector` or `segmenter`: the setting that names it."""
    usual: ClassVar[str]
    box_threshold: ClassVar[float] = 0.0
    bfloat16_on_gpu: ClassVar[bool] = True

    @classmethod
    def in_bfloat16(cls, settings: ImagePreferenceSettings) -> bool:
        """Whether the model runs in bfloat16 with these settings on this machine, else in float32."""
        automatic = settings.precision == "auto" and cls.bfloat16_on_gpu and devices.has_accelerator()
        return settings.precision == "bfloat16" or automatic

    def __init__(self, settings: ImagePreferenceSettings, model: str, processor: str) -> None:
        from harness.models import pretrained

        pretrained.quiet_transformers()
        import torch

        self.name = getattr(settings, self.role) or self.usual
        self.threshold = self.box_threshold if settings.box_threshold is None else settings.box_threshold
        self.device = torch.device(devices.usual())
        self.dtype = torch.bfloat16 if self.in_bfloat16(settings) else torch.float32
        remedy = "give a folder that contains it (detector, segmenter), or use the data set's boxes: regions=dataset"
        said = {"problem": f"the model '{self.name}' cannot be loaded", "remedy": remedy}
        self.processor = pretrained.processor(self.name, processor, **said)
        loaded = pretrained.weights(model, self.name, strict=False, dtype=self.dtype, **said)
        self.model = loaded.to(self.device).eval()

    def on_device(self, inputs: Any) -> dict[str, Any]:
        """Tensors on the model's device; pixels in its precision."""
        return {
            name: value.to(self.device, self.dtype if name == "pixel_values" else None)
            for name, value in inputs.items()
            if hasattr(value, "to")
        }


class GroundingDino(Pretrained):
    """Grounding DINO.

    Source: Liu et al., ECCV 2024; thresholds as in its demo.
    """

    role = "detector"
    usual, box_threshold, bfloat16_on_gpu = "IDEA-Research/grounding-dino-base", 0.35, False
    one_size = True  # its backbone sees a batch's padding

    def __init__(self, settings: ImagePreferenceSettings) -> None:
        super().__init__(settings, "AutoModelForZeroShotObjectDetection", "AutoProcessor")
        self.text_threshold = settings.text_threshold

    def detect(self, pictures: Sequence[Any], phrases: Sequence[list[str]]) -> list[list[Detection]]:
        """All of an image's phrases are one caption, as the model was trained: "a dog. a cup."."""
        import torch

        captions = [" ".join(f"{phrase}." for phrase in some) for some in phrases]
        inputs = self.on_device(
            self.processor(images=list(pictures), text=captions, padding=True, truncation=True, return_tensors="pt")
        )
        with torch.no_grad():
            outputs = self.model(**inputs)
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        results = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.threshold,
            text_threshold=self.text_threshold,
            target_sizes=[(picture.height, picture.width) for picture in pictures],
        )
        detections = []
        for result, some, picture in zip(results, phrases, pictures, strict=True):
            boxes = result["boxes"].tolist()
            labels = result["text_labels"] if boxes else []  # the tokenizer decodes no labels to one empty text
            rows = zip(labels, boxes, result["scores"].tolist(), strict=True)
            hits = [(_nearest(label, some), _pixels(box, picture), score) for label, box, score in rows]
            detections.append([Detection(keyword, box, score) for keyword, box, score in hits if keyword and box])
        return detections


class Owlv2(Pretrained):
    """OWLv2: a score for every phrase and patch.

    Source: Minderer et al., NeurIPS 2023.
    """

    role = "detector"
    usual, box_threshold = "google/owlv2-base-patch16-ensemble", 0.2
    one_size = False  # each image is padded to a square by itself

    def __init__(self, settings: ImagePreferenceSettings) -> None:
        super().__init__(settings, "Owlv2ForObjectDetection", "Owlv2Processor")

    def detect(self, pictures: Sequence[Any], phrases: Sequence[list[str]]) -> list[list[Detection]]:
        """Phrases are put into the prompt of its training, "a photo of a …"; images with fewer phrases get empty ones, which are never
        selected."""
        import torch

        most = max(map(len, phrases))
        texts = [[f"a photo of a {phrase}" for phrase in some] for some in phrases]
        asked = [[*some, *[""] * (most - len(some))] for some in texts]
        tokens = self.processor.tokenizer(
            [text for some in asked for text in some],
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        pixels = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**self.on_device({**tokens, **pixels}))
        logits = outputs.logits.float()
        for row, some in zip(logits, phrases, strict=True):
            row[:, len(some) :] = -torch.inf
        outputs.logits, outputs.pred_boxes = logits, outputs.pred_boxes.float()
        results = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(picture.height, picture.width) for picture in pictures]
        )
        detections = []
        for result, some, picture in zip(results, phrases, pictures, strict=True):
            rows = zip(result["labels"].tolist(), result["boxes"].tolist(), result["scores"].tolist(), strict=True)
            hits = [(some[label], _pixels(box, picture), score) for label, box, score in rows]
            detections.append([Detection(keyword, box, score) for keyword, box, score in hits if box])
        return detections


class Sam(Pretrained):
    """SAM, prompted by boxes.

    Source: Kirillov et al., ICCV 2023.
    """

    role = "segmenter"
    usual = "facebook/sam-vit-base"

    def __init__(self, settings: ImagePreferenceSettings) -> None:
        super().__init__(settings, "SamModel", "SamProcessor")

    def segment(self, pictures: Sequence[Any], boxes: Sequence[list[Box]]) -> list[list[np.ndarray]]:
        """One mask per box; if the numbers of boxes differ, the last box is repeated, and its additional masks are dropped."""
        import torch

        most = max(map(len, boxes))
        asked = [[list(box) for box in [*some, *[some[-1]] * (most - len(some))]] for some in boxes]
        inputs = self.processor(list(pictures), input_boxes=asked, return_tensors="pt")
        moved = self.on_device(inputs)
        # Not bfloat16, which has a resolution of four pixels for such coordinates; the model converts them after scaling to [-1, 1].
        moved["input_boxes"] = moved["input_boxes"].float()
        sizes = {name: moved.pop(name) for name in ("original_sizes", "reshaped_input_sizes")}
        with torch.no_grad():
            outputs = self.model(**moved, multimask_output=False)
        masks = self.processor.image_processor.post_process_masks(
            outputs.pred_masks.float().cpu(),
            *(sizes[name].cpu() for name in ("original_sizes", "reshaped_input_sizes")),
        )
        return [
            [mask[0].numpy().astype(bool) for mask in drawn[: len(some)]]
            for drawn, some in zip(masks, boxes, strict=True)
        ]


class Sam3(Pretrained):
    """SAM 3, prompted by phrases: every instance of a phrase, with its mask.

    Source: Carion et al., 2025 (SAM 3: Segment Anything with Concepts).
    """

    role = "segmenter"
    usual, box_threshold = "facebook/sam3", 0.5

    def __init__(self, settings: ImagePreferenceSettings) -> None:
        super().__init__(settings, "Sam3Model", "Sam3Processor")
        self.models, self.batch_size = {"segmenter": self.name}, settings.batch_size

    def locate(self, asked: Sequence[RegionQuery]) -> list[list[Located]]:
        """Each image is encoded once; then the n-th keywords of all images are processed together."""
        located: list[list[Located]] = [[] for _ in asked]
        sought = [number for number, query in enumerate(asked) if query.keywords]
        for group in _groups(sought, self.batch_size, lambda number: None):
            self._locate([(asked[number], located[number]) for number in group])
        return located

    def _locate(self, group: Sequence[tuple[RegionQuery, list[Located]]]) -> None:
        import torch

        with torch.no_grad():
            pixels = self.processor(images=[one.picture for one, _ in group], return_tensors="pt")
            encoded = self.model.get_vision_features(self.on_device(pixels)["pixel_values"])
            for rank in range(max(len(one.keywords) for one, _ in group)):
                rows = [row for row, (one, _) in enumerate(group) if len(one.keywords) > rank]
                some = [group[row] for row in rows]
                phrases = [one.keywords[rank].phrase for one, _ in some]
                text = self.processor(text=phrases, return_tensors="pt", truncation=True)
                vision = type(encoded)(
                    fpn_hidden_states=tuple(level[rows] for level in encoded.fpn_hidden_states),
                    fpn_position_encoding=tuple(level[rows] for level in encoded.fpn_position_encoding),
                )
                outputs = self.model(vision_embeds=vision, **self.on_device(text))
                for name in ("pred_logits", "pred_boxes", "pred_masks", "presence_logits"):
                    setattr(outputs, name, getattr(outputs, name).float())
                results = self.processor.post_process_instance_segmentation(
                    outputs, self.threshold, target_sizes=[(one.picture.height, one.picture.width) for one, _ in some]
                )
                for (one, hits), phrase, result in zip(some, phrases, results, strict=True):
                    hits.extend(self._hits(one.picture, phrase, result))

    @staticmethod
    def _hits(picture: Any, phrase: str, result: Any) -> Iterator[Located]:
        rows = zip(result["boxes"].tolist(), result["scores"].tolist(), result["masks"].cpu().numpy(), strict=True)
        for raw, score, drawn in rows:
            if box := _pixels(raw, picture):
                mask = drawn.astype(bool)
                yield Located(phrase, box, mask if mask.any() else box_mask(box, picture.width, picture.height), score)


def _groups(numbers: Sequence[int], size: int, key: Callable[[int], Any]) -> Iterator[list[int]]:
    """Batches of at most `size` elements with equal keys, in order."""
    alike: dict[Any, list[int]] = {}
    for number in numbers:
        alike.setdefault(key(number), []).append(number)
    for group in alike.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _pixels(box: Sequence[float], picture: Any) -> Box | None:
    """A box in whole pixels, clipped to the picture; None if it is empty."""
    edges = zip(box, (picture.width, picture.height) * 2, strict=True)
    left, top, right, bottom = (float(min(max(round(edge), 0), most)) for edge, most in edges)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _nearest(label: str, phrases: Sequence[str]) -> str | None:
    """The phrase that a label of Grounding DINO stands for.

    A label is decoded from those tokens of the caption that scored above the threshold, so it may join two phrases, be a piece of a word
    ("fr" or "##bee" of "frisbee"), have no accents, and have blanks between Chinese characters.

    Args:
        label: as the tokenizer decodes it.
        phrases: those of the caption.

    Returns:
        The phrase that shares most words with the label; if none does, the only one that has the label as the beginning or a piece of a
        word; None if there is no such phrase, or several.
    """
    inside = label.startswith("##")  # a piece that does not begin a word, so it is no whole word
    said = _plain(label)
    names = {phrase: _plain(phrase) for phrase in phrases}
    words = set(said.split()[1 if inside else 0 :])
    best = max(phrases, key=lambda phrase: (len(words & set(names[phrase].split())), -len(names[phrase].split())))
    if words & set(names[best].split()):
        return best
    piece = re.compile((r"(?<=\w)" if inside else r"(?<![a-z0-9])") + re.escape(said))
    holders = [phrase for phrase, name in names.items() if said and piece.search(name)]
    return holders[0] if len(holders) == 1 else None


def _plain(text: str) -> str:
    """Text as labels and phrases are compared: lower case, without accents, punctuation, marks of pieces ("##", "[UNK]") and blanks
    between Chinese characters."""
    apart = unicodedata.normalize("NFD", text.replace("[UNK]", " ").lower())
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return re.sub(rf"(?<={_CHINESE})\s+(?={_CHINESE})", "", " ".join(re.findall(r"\w+", bare)))
