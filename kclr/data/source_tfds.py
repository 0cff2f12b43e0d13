"""`tfds:NAME`: a data set of TensorFlow Datasets, from disk, or downloaded if there is a network.

What is on disk is found and described from its JSON files alone, without TensorFlow.
"""

import difflib
import json
import os
import re
import socket
import threading
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from kclr.data.fingerprints import digest, of_files
from kclr.data.pixels import kept_dtype
from kclr.data.sources import Source
from kclr.errors import RunError, SpecError
from kclr.spec.registry import register
from kclr.spec.values import pair

_VERSION = re.compile(r"\d+\.\d+\.\d+$")
_PROBED = ("storage.googleapis.com", "www.tensorflow.org")
_DEEPEST = 3  # folders from the directory of all data sets to a version: name, config, version
_BATCH = 256  # images of one size are decoded and handed to Python in batches
_ANSWER_SECONDS = 3.0


@register("source", "tfds")
class Tfds(Source):
    """A data set of TensorFlow Datasets, with the images of one of its features."""

    name: str = Field(exclude=True)
    """Name of the data set, optionally with its config and version: `cifar10_1/v4:1.1.0`."""
    split: str = "train"
    """Part of the data set: a split, a slice (`train[:90%]`, `test[1000:]`) or a sum
    (`train+test`)."""
    data_dir: str | None = None
    """Directory of all data sets; by default `TFDS_DATA_DIR` or ~/tensorflow_datasets."""
    feature: str = "image"
    """The feature that holds the images."""
    alpha: bool = False
    """Whether the last of two or four channels is transparency; it is composited on white."""

    argument: ClassVar[str | None] = "name"
    reading: ClassVar[tuple[str, ...]] = ("nodata", "data_dir", "feature", "alpha")

    def problem(self):
        place = self._place()
        if place is None:
            elsewhere = self._elsewhere()
            if elsewhere:
                return elsewhere
            near = difflib.get_close_matches(self.name, self._on_disk(), n=1, cutoff=0.7)
            if near and near[0] != self.name:
                return f"{self._missing()}. Did you mean tfds:{near[0]}, which is?"
            return None if reachable(_PROBED) else self._not_downloaded("no network")
        try:
            splits, feature = self._described(place)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return (
                f"{place} is damaged ({type(error).__name__}: {error}). "
                "Copy or download the data set again."
            )
        for term in self.split.split("+"):
            base = term.strip().partition("[")[0]
            if base != "all" and base not in splits:
                return (
                    f"tfds:{self.name} has no split {base!r}. "
                    f"Choose from {', '.join(sorted(splits)) or 'none: it is empty'}."
                )
            if not re.fullmatch(r"[^\[\]]+(\[[^\[\]]*:[^\[\]]*\])?", term.strip()):
                return (
                    f"{term.strip()!r} is not a slice of a split. Write it as {base}[:90%] or "
                    f"{base}[1000:2000]."
                )
        return self._feature_problem(feature)

    def image_shape(self):
        place = self._place()
        try:
            feature = self._described(place)[1][self.feature]
            dimensions = feature["image"]["shape"]["dimensions"]
            height, width, channels = (int(dimension) for dimension in dimensions)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if min(height, width) < 1:
            return None
        if self.tile:
            height, width = map(min, (height, width), pair(self.tile))
        return height, width, self.channels or channels - (self.alpha and channels in (2, 4))

    def open(self):
        problem = self._download() if self._place() is None else self.problem()
        if problem:
            raise SpecError(problem)

        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._place())
        ranges = self._ranges(builder)
        shape = builder.info.features[self.feature].shape
        count = sum(stop - start for _, start, stop in ranges)
        if count == 0:
            raise SpecError(f"tfds:{self.name}: the split {self.split} is empty. Widen its slice.")

        def records(start):
            number = start
            for image in _read(builder, self.feature, ranges, start):
                yield f"{self.split} {number}", lambda image=image: image
                number += 1

        return self._images(
            records,
            count=count,
            channels=shape[-1] - (self.alpha and shape[-1] in (2, 4)),
            dtype=kept_dtype(builder.info.features[self.feature].np_dtype),
            alpha=self.alpha,
            contents=lambda tell: self._contents(builder, ranges, tell),
        )

    def labelled(self, split, channels=None):
        import numpy as np
        import tensorflow_datasets as tfds

        from kclr.data.labels import HELD_OUT, Labelled, divide

        source = self.model_copy(update={"max_unreadable": 1.0, "channels": channels})
        source.open()  # what is not on disk is downloaded
        builder = tfds.builder_from_directory(source._place())
        lengths = builder.info.splits
        features = dict(builder.info.features.items())
        feature = features.get("label")
        if not isinstance(feature, tfds.features.ClassLabel):
            raise SpecError(
                f"tfds:{self.name} has no feature 'label' with classes; its features are "
                f"{', '.join(sorted(features))}. Choose a data set for classification."
            )
        read = {part: _labels(builder, part) for part in ("train", *HELD_OUT) if part in lengths}
        # Challenges publish their test images with -1 for a label.
        held_out = [part for part in HELD_OUT if part in read and (read[part] >= 0).all()]
        part = held_out[0] if split == "test" and held_out else "train"
        images = source.model_copy(update={"split": part}).open()
        labels, classes = read[part], tuple(feature.names)
        if held_out:
            return Labelled(images, labels, classes)
        present, indices = np.unique(labels, return_inverse=True)
        rows = divide(indices, split, self.spec_name(), [classes[index] for index in present])
        return Labelled(images, labels[rows], classes, rows=rows)

    def picture_labels(self):
        import numpy as np
        import tensorflow_datasets as tfds

        from kclr.data.labels import HELD_OUT, divide

        builder = tfds.builder_from_directory(self._place())
        lengths, feature = builder.info.splits, dict(builder.info.features.items()).get("label")
        if not isinstance(feature, tfds.features.ClassLabel):
            raise SpecError(self._no_labels())
        classes, ranges = tuple(feature.names), self._ranges(builder)
        read = {part: _labels(builder, part) for part in {part for part, *_ in ranges}}
        # Test images of challenges have -1 for a label, and are then not what is judged on.
        judged = [own for own in HELD_OUT if own in lengths]
        judged = [own for own in judged if (_labels(builder, own) >= 0).all()]
        for part in read.keys() & {*judged}:
            read[part][:] = -1
        if not judged and "train" in read:
            present, indices = np.unique(read["train"], return_inverse=True)
            names = [classes[index] for index in present]
            tested = divide(indices.reshape(-1), "test", self.spec_name(), names)
            read["train"][tested] = -1
        numbers = [read[part][first:stop] for part, first, stop in ranges]
        return np.concatenate(numbers), classes

    def label_count(self):
        place = self._place()
        try:
            features = self._described(place)[1]
            sizes = self._sizes(place)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        label = features.get("label", {})
        if not str(label.get("pythonClassName", "")).endswith(".ClassLabel"):
            raise SpecError(self._no_labels(features))
        # A slice has not the same number of every class, nor what is kept for testing.
        if self.split not in sizes or not {"test", "validation"} & sizes.keys():
            return None
        count = min(sizes[self.split], self.limit or sizes[self.split])
        if self.labels is None or self.labels <= 1:
            return round(count * (1 if self.labels is None else self.labels)), count
        classes = int(label["classLabel"]["numClasses"])
        return min(count, int(self.labels) * classes), count

    def _sizes(self, place):
        """The number of examples in each split, as its JSON says."""
        with open(os.path.join(place, "dataset_info.json"), encoding="utf-8") as file:
            splits = json.load(file).get("splits", ())
        return {own["name"]: sum(map(int, own["shardLengths"])) for own in splits}

    def _no_labels(self, features=()):
        there = f" (its features: {', '.join(sorted(features))})" if features else ""
        return (
            f"tfds:{self.name} has no feature 'label' with classes{there}. Choose a data set for "
            "classification, or remove `labels`."
        )

    def _contents(self, builder, ranges, tell):
        """Of the files that hold the wanted slices; the options that say which those are count."""
        place = os.fspath(builder.data_dir)
        files = {
            os.path.basename(path): path
            for split in dict.fromkeys(split for split, *_ in ranges)
            for path in map(os.fspath, builder.info.splits[split].filepaths)
        }
        found = of_files(place, files, tell)
        chosen = digest(builder.info.full_name, self.feature, self.alpha, ranges, found.digest)
        return replace(found, digest=chosen)

    def _root(self):
        """The directory of all data sets, as it is written in messages."""
        return self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"

    def _place(self, root=None):
        """The directory of the wanted version, or None if it is not on disk.

        Args:
            root: in place of the directory of all data sets.
        """
        name, _, version = self.name.partition(":")
        folder = os.path.join(os.path.expanduser(root or self._root()), *name.split("/"))
        if not name or not os.path.isdir(folder):
            return None
        if not _versions(folder) and "/" not in name:
            config = _only_config(folder)
            folder = os.path.join(folder, config) if config else folder
        versions = [found for found in _versions(folder) if version in ("", found)]
        return os.path.join(folder, versions[-1]) if versions else None

    def _elsewhere(self):
        """Words for a `data_dir` that is a few folders off, or None."""
        root = os.path.expanduser(self._root())
        above = [root]
        for _ in range(_DEEPEST):
            above.append(os.path.dirname(os.path.abspath(above[-1])))
        below = [os.path.join(root, name) for name in _folders(root)]
        for folder in (*above[1:], *below):
            place = self._place(folder)
            if place:
                return (
                    f"tfds:{self.name} is in {place}, so {self._root()} is not the directory of "
                    f"all data sets. Use data_dir: {folder}, or set TFDS_DATA_DIR={folder}"
                )
        return None

    def _on_disk(self):
        """Names of the data sets on disk, with their configs."""
        root = os.path.expanduser(self._root())
        names = []
        for name in _folders(root):
            if _versions(os.path.join(root, name)):
                names.append(name)
            for config in _folders(os.path.join(root, name)):
                if not _VERSION.match(config) and _versions(os.path.join(root, name, config)):
                    names.append(f"{name}/{config}")
        return names

    def _described(self, place) -> tuple[set[str], dict[str, Any]]:
        """Names of the splits, and the features as their JSON describes them."""
        with open(os.path.join(place, "dataset_info.json"), encoding="utf-8") as file:
            splits = {split["name"] for split in json.load(file).get("splits", ())}
        with open(os.path.join(place, "features.json"), encoding="utf-8") as file:
            features = json.load(file)
        return splits, features.get("featuresDict", {}).get("features", {})

    def _feature_problem(self, features):
        found = features.get(self.feature)
        if found and str(found.get("pythonClassName", "")).endswith(".Image"):
            return None
        images = [
            name
            for name, described in features.items()
            if str(described.get("pythonClassName", "")).endswith(".Image")
        ]
        cure = (
            f"Choose an image feature: feature: {' or '.join(sorted(images))}."
            if images
            else "It holds no images; choose another data set."
        )
        return (
            f"tfds:{self.name} has no image feature {self.feature!r}; "
            f"its features are {', '.join(sorted(features)) or 'unnamed'}. {cure}"
        )

    def _missing(self):
        return f"tfds:{self.name} is not on this machine (looked in {self._root()})"

    def _not_downloaded(self, reason):
        others = self._on_disk()
        there = f" (found: {', '.join(others[:8])})" if others else ""
        return (
            f"{self._missing()} and could not be downloaded: {reason}. Copy the data set "
            f"there{there}, or train on your own pictures: data: folder:PATH"
        )

    def _download(self):
        """Download and prepare the data set; return what went wrong, or None.

        Nothing is asked of the network before a quick look whether there is one: the library
        itself tries for minutes.
        """
        elsewhere = self._elsewhere()
        if elsewhere:
            return elsewhere

        import urllib.parse

        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(self.name, data_dir=os.path.expanduser(self._root()))
        except tfds.core.DatasetNotFoundError:
            names = [*self._on_disk(), *tfds.list_builders(with_community_datasets=False)]
            near = difflib.get_close_matches(self.name.partition("/")[0], names, n=1)
            cure = (
                f"Did you mean tfds:{near[0]}?"
                if near
                else "The names are listed at https://www.tensorflow.org/datasets/catalog"
            )
            return f"{self.name!r} is not known to TensorFlow Datasets. {cure}"
        except (ValueError, AssertionError, RuntimeError) as error:
            return f"tfds:{self.name}: {_first_line(error)}. Check its config and its version."
        urls = [urllib.parse.urlparse(url).hostname for url in builder.url_infos or ()]
        hosts = list(dict.fromkeys(host for host in urls if host))[:4]
        if not reachable(hosts or _PROBED):
            return self._not_downloaded("no network")
        try:
            builder.download_and_prepare(file_format="tfrecord")
        except Exception as error:  # many libraries meet here, each with its own kinds
            manual = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
            if manual and isinstance(error, AssertionError):
                return f"tfds:{self.name} has to be downloaded by hand. {manual.strip()}"
            raise RunError(self._not_downloaded(_first_line(error))) from None
        return self.problem()

    def _ranges(self, builder):
        """The wanted slices as (split, first, end) in examples."""
        import tensorflow_datasets as tfds

        lengths = builder.info.splits
        if self.split == "all":
            return [(name, 0, lengths[name].num_examples) for name in sorted(lengths)]
        try:
            absolute = tfds.core.ReadInstruction.from_spec(self.split).to_absolute(lengths)
        except (ValueError, AssertionError, KeyError) as error:
            raise SpecError(
                f"tfds:{self.name}: {self.split!r} is not a valid slice: {_first_line(error)}. "
                "Write it as train[:90%] or train[1000:2000]."
            ) from None
        ranges = []
        for part in absolute:
            size = lengths[part.splitname].num_examples
            start, stop, _ = slice(part.from_, part.to).indices(size)
            ranges.append((part.splitname, start, max(start, stop)))
        return ranges


def _read(builder, feature, ranges, start):
    """The images of `ranges` in the order of the files, from number `start` on."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    shape = builder.info.features[feature].shape
    # Several files at once would make the order depend on where reading starts.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    for split, first, stop in ranges:
        size = stop - first
        if start >= size:
            start -= size
            continue
        try:
            with tf.device("CPU:0"):
                dataset = builder.as_dataset(
                    split=tfds.core.ReadInstruction(
                        split, from_=first + start, to=stop, unit="abs"
                    ),
                    decoders=tfds.decode.PartialDecoding({feature: True}),
                    read_config=config,
                ).map(lambda example: example[feature])
                fixed = None not in shape
                dataset = dataset.batch(_BATCH) if fixed else dataset
                for value in dataset.prefetch(2).as_numpy_iterator():
                    yield from value if fixed else (value,)
        except (tf.errors.OpError, OSError) as error:
            raise RunError(
                f"{builder.data_dir} cannot be read: {_first_line(error)}. "
                "Copy or download the data set again."
            ) from None
        start = 0


def _folders(path):
    try:
        return sorted(e.name for e in os.scandir(path) if e.is_dir() and e.name[0] != ".")
    except OSError:
        return []


def _versions(folder):
    """The versions that are complete in a data set's folder, oldest first."""
    found = [
        name
        for name in _folders(folder)
        if _VERSION.match(name) and os.path.isfile(os.path.join(folder, name, "features.json"))
    ]
    return sorted(found, key=lambda version: [int(number) for number in version.split(".")])


def _only_config(folder):
    """The config that a data set without one in its name means: its default, or the only one."""
    try:
        with open(os.path.join(folder, ".config", "metadata.json"), encoding="utf-8") as file:
            return json.load(file)["default_config_name"]
    except (OSError, ValueError, KeyError, TypeError):
        configs = [name for name in _folders(folder) if _versions(os.path.join(folder, name))]
        return configs[0] if len(configs) == 1 else None


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _labels(builder, part):
    import numpy as np

    size = builder.info.splits[part].num_examples
    return np.fromiter(_read(builder, "label", [(part, 0, size)], 0), np.int64, size)


def reachable(hosts) -> bool:
    """Whether one of the hosts, or the proxy before them, answers within a few seconds."""
    # Half of what the check of a spec takes, were they imported above.
    import urllib.parse
    import urllib.request

    proxy = urllib.request.getproxies().get("https")
    if proxy:
        parsed = urllib.parse.urlparse(proxy if "//" in proxy else f"//{proxy}")
        targets = [(parsed.hostname, parsed.port or 443)]
    else:
        targets = [(host, 443) for host in hosts]
    answered = threading.Event()
    waiting = threading.Semaphore(0)

    def ask(target):
        try:
            socket.create_connection(target, timeout=_ANSWER_SECONDS).close()
            answered.set()
        except OSError:
            pass
        waiting.release()

    # Looking up a host's name obeys no timeout, so it waits in threads that can be left behind.
    for target in targets:
        threading.Thread(target=ask, args=(target,), daemon=True).start()
    for _ in targets:
        if not waiting.acquire(timeout=_ANSWER_SECONDS):
            break
        if answered.is_set():
            break
    return answered.is_set()
