"""Folders of real image files: decoding, the cache, and what is refused."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from distrib.data import selection
from distrib.data.images import Dataset
from distrib.data.selection import Selection
from distrib.data.sources import folder
from distrib.errors import BadInput

MODES = {  # which modes PIL can write in which format
    ".png": ("RGB", "L", "RGBA", "LA", "P", "1"),
    ".jpg": ("RGB", "L", "CMYK"),
    ".JPEG": ("RGB",),
    ".bmp": ("RGB", "L", "P", "1"),
    ".webp": ("RGB", "RGBA"),
    ".tif": ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK"),
}

Harm = Callable[[Path], object]

RED, GREEN, BLUE = (200, 20, 10), (10, 190, 30), (20, 10, 180)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Two classes with two training images and one test image each."""
    root = tmp_path / "birds"
    for place, colour in {
        "train/owl/1.png": RED,
        "train/owl/2.png": GREEN,
        "train/wren/1.png": BLUE,
        "train/wren/2.png": RED,
        "test/owl/1.png": GREEN,
        "test/wren/1.png": BLUE,
    }.items():
        write(root / place, Image.new("RGB", (32, 32), colour))
    return root


def write(file: Path, image: Image.Image, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)
    return file


def noise(seed: int) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=numpy.uint8))


def same(one: Dataset, two: Dataset) -> bool:
    return one.fingerprint() == two.fingerprint() and one.classes == two.classes


def colour(image: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in image.float().mean(dim=(0, 1)))


def refused(path: Path, cache: Path) -> str:
    with pytest.raises(BadInput) as caught:
        folder.load(path, cache)
    return str(caught.value)


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an image file was opened")

    monkeypatch.setattr(Image, "open", fail)


def test_images_labels_and_classes(birds: Path, cache: Path) -> None:
    data = folder.load(birds, cache)
    assert data.classes == ("owl", "wren")
    assert str(birds) in data.name
    assert data.train.images.shape == (4, 32, 32, 3)
    assert data.train.images.dtype == data.test.images.dtype == torch.uint8
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert [colour(image) for image in data.train.images] == [RED, GREEN, BLUE, RED]
    assert [colour(image) for image in data.test.images] == [GREEN, BLUE]


def test_pixels_of_the_right_size_are_untouched(birds: Path, cache: Path) -> None:
    image = noise(3)
    write(birds / "train/owl/1.png", image)
    assert torch.equal(folder.load(birds, cache).train.images[0], torch.from_numpy(numpy.array(image)))


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (7, 100), (300, 31)])
@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_size_mode_and_format_becomes_rgb_32(
    birds: Path, cache: Path, size: tuple[int, int], suffix: str, mode: str
) -> None:
    grey = Image.new("RGB", size, (120, 120, 120))
    image = grey.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else grey.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(90)
    write(birds / f"train/owl/0{suffix}", image)
    train = folder.load(birds, cache).train
    assert train.images.shape == (5, 32, 32, 3)
    if mode != "1":  # black and white has no grey to compare with
        assert colour(train.images[0]) == pytest.approx((120, 120, 120), abs=6)


def test_an_oblong_image_is_squeezed_not_cropped(birds: Path, cache: Path) -> None:
    image = Image.new("RGB", (128, 64), RED)
    image.paste(BLUE, (64, 0, 128, 64))
    write(birds / "train/owl/1.png", image)
    squeezed = folder.load(birds, cache).train.images[0]
    assert colour(squeezed[:, :14]) == RED
    assert colour(squeezed[:, 18:]) == BLUE


def test_16_bit_grey_keeps_its_brightness(birds: Path, cache: Path) -> None:
    grey = Image.fromarray(numpy.full((32, 32), 100 * 257, dtype=numpy.uint16))
    write(birds / "train/owl/1.png", grey)
    assert colour(folder.load(birds, cache).train.images[0]) == pytest.approx((100, 100, 100), abs=1)


def test_a_photo_is_turned_as_the_camera_says(birds: Path, cache: Path) -> None:
    seen = Image.new("RGB", (64, 32), RED)
    seen.paste(BLUE, (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: show it turned
    write(birds / "train/owl/1.png", seen.transpose(Image.Transpose.ROTATE_90), exif=exif)
    data = folder.load(birds, cache)
    assert colour(data.train.images[0][:, :14]) == RED
    assert colour(data.train.images[0][:, 18:]) == BLUE
    assert "32 x 32 to 64 x 32 pixels" in data.notes[0]


@pytest.mark.parametrize("shape", [(255, 255, 255), (0, 0, 0)])
def test_what_is_transparent_shows_no_hidden_colours(birds: Path, cache: Path, shape: tuple[int, int, int]) -> None:
    pixels = numpy.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=numpy.uint8)
    pixels[..., 3] = 0
    pixels[8:24, 8:24] = (*shape, 255)
    write(birds / "train/owl/1.png", Image.fromarray(pixels))
    image = folder.load(birds, cache).train.images[0]
    assert colour(image[:8]) == (128, 128, 128)
    assert colour(image[8:24, 8:24]) == shape


@pytest.mark.parametrize(
    ("name", "pixels", "words"),
    [
        ("float.tif", numpy.linspace(0, 1, 1024, dtype=numpy.float32), "floating-point numbers"),
        ("int.tif", numpy.arange(1024, dtype=numpy.int32), "32-bit numbers"),
        ("scan.png", numpy.arange(0, 4096, 4, dtype=numpy.uint16), "none is above 4092"),
    ],
)
def test_pixels_of_an_unknown_range_are_refused(
    birds: Path, cache: Path, name: str, pixels: numpy.ndarray, words: str
) -> None:
    write(birds / "train/owl" / name, Image.fromarray(pixels.reshape(32, 32)))
    message = refused(birds, cache)
    for word in (str(birds / "train/owl" / name), words, "save it with 8 bits"):
        assert word in message


def test_links_to_folders_are_followed_once(birds: Path, cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "store/june/3.png", noise(0))
    (birds / "train/owl/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/round").symlink_to(birds / "train/owl")
    data = folder.load(birds, cache)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.notes == ()


def test_links_that_lead_nowhere_are_all_named(birds: Path, cache: Path, tmp_path: Path) -> None:
    for number in range(30):
        (birds / f"train/owl/far{number:02}.png").symlink_to(tmp_path / "not-mounted" / f"{number}.png")
    message = refused(birds, cache)
    for words in (
        "30 images cannot be used",
        "far00.png is a link to",
        "not-mounted/0.png, which is not there",
        "10 more",
    ):
        assert words in message


def test_val_stands_in_for_test(birds: Path, cache: Path) -> None:
    before = folder.load(birds, cache)
    (birds / "test").rename(birds / "val")
    assert same(folder.load(birds, cache), before)


def test_test_goes_before_val(birds: Path, cache: Path) -> None:
    for cls in ("owl", "wren"):
        write(birds / "val" / cls / "1.png", noise(0))
        write(birds / "val" / cls / "2.png", noise(1))
    assert len(folder.load(birds, cache).test) == 2


def test_other_files_and_empty_classes_are_left_out_and_told(birds: Path, cache: Path) -> None:
    before = folder.load(birds, cache)
    assert before.notes == ()
    others = [birds / "train/empty", birds / "train/owl/notes.txt", birds / "train/readme.png"]
    others[0].mkdir()
    others[1].write_text("not an image")
    others[2].write_text("belongs to no class")
    data = folder.load(birds, cache)
    assert same(data, before)
    (note,) = data.notes
    assert note.startswith("left out, because what is read are .jpg, .jpeg, .png, ")
    assert {str(path) for path in others} == set(note.partition(": ")[2].split(", "))


def test_hidden_files_and_folders_are_left_out_and_told(birds: Path, cache: Path) -> None:
    before = folder.load(birds, cache)
    for name in ("train/.ipynb_checkpoints/1.png", "train/owl/._1.png", "train/owl/@eaDir/1.png", "test/wren/.1.png"):
        write(birds / name, noise(5))
    data = folder.load(birds, cache)
    assert same(data, before)
    (note,) = data.notes
    for hidden in (".ipynb_checkpoints", "._1.png", "@eaDir", ".1.png"):
        assert hidden in note


def test_of_many_files_that_are_left_out_a_few_are_named(birds: Path, cache: Path) -> None:
    for number in range(30):
        (birds / f"train/owl/{number}.txt").touch()
    (note,) = folder.load(birds, cache).notes
    assert note.endswith(" and 25 more")
    assert note.count(".txt") == 5


def test_other_sizes_are_told_also_by_the_cache(birds: Path, cache: Path) -> None:
    for name in ("train/owl/1.png", "train/owl/2.png"):
        write(birds / name, Image.new("RGB", (640, 360), RED))
    expected = ("images of 32 x 32 to 640 x 360 pixels are resized to 32 x 32",)
    assert folder.load(birds, cache).notes == expected
    assert folder.load(birds, cache).notes == expected, "the second time from the cache"
    for file in birds.rglob("*.png"):
        write(file, Image.new("RGB", (640, 360), RED))
    assert folder.load(birds, cache).notes == ("images of 640 x 360 pixels are resized to 32 x 32",)


def test_images_may_lie_deeper(birds: Path, cache: Path) -> None:
    write(birds / "train/owl/2024/june/3.png", noise(0))
    assert folder.load(birds, cache).train.labels.tolist() == [0, 0, 0, 1, 1]


def test_the_second_load_decodes_nothing(birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder.load(birds, cache)
    assert len(list(cache.iterdir())) == 1, "one cache file and nothing else"
    no_decoding(monkeypatch)
    assert same(folder.load(birds, cache), first)


def test_what_a_killed_run_left_of_its_cache_is_removed(birds: Path, cache: Path) -> None:
    cache.mkdir()
    left, other = (cache / f".images-{number}.safetensors-abc" for number in "12")
    left.write_bytes(b"half")
    other.write_bytes(b"still being written")
    os.utime(left, (10**9, 10**9))
    folder.load(birds, cache)
    assert not left.exists()
    assert other.exists()


def replace_pixels(birds: Path) -> None:
    write(birds / "train/owl/1.png", noise(1))


def replace_pixels_of_the_same_size(birds: Path) -> None:
    file = birds / "train/owl/1.bmp"
    before = file.stat()
    write(file, noise(2))
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def add(birds: Path) -> None:
    write(birds / "train/owl/3.png", noise(1))


def remove(birds: Path) -> None:
    (birds / "train/owl/2.png").unlink()


def rename_class(birds: Path) -> None:
    for split in ("train", "test"):
        (birds / split / "owl").rename(birds / split / "zebra")


def move_to_the_other_class(birds: Path) -> None:
    (birds / "train/owl/2.png").rename(birds / "train/wren/3.png")


def swap_two_of_one_size_and_time(birds: Path) -> None:
    """All files of an archive may have one time, and uncompressed images one size."""
    one, two = (birds / "train" / name / "1.bmp" for name in ("owl", "wren"))
    assert (one.stat().st_size, one.stat().st_mtime_ns) == (two.stat().st_size, two.stat().st_mtime_ns)
    one.rename(birds / "between")
    two.rename(one)
    (birds / "between").rename(two)


@pytest.mark.parametrize(
    "change",
    [
        replace_pixels,
        replace_pixels_of_the_same_size,
        add,
        remove,
        rename_class,
        move_to_the_other_class,
        swap_two_of_one_size_and_time,
    ],
)
def test_a_changed_folder_is_decoded_again(
    birds: Path, cache: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for seed, name in enumerate(("owl", "wren")):
        os.utime(write(birds / "train" / name / "1.bmp", noise(seed)), ns=(10**18, 10**18))
    before = folder.load(birds, cache)
    change(birds)
    after = folder.load(birds, cache)
    assert not same(after, before)
    assert same(after, folder.load(birds, tmp_path / "fresh"))
    assert len(list(cache.iterdir())) == 2


def test_two_folders_that_look_alike_have_two_caches(tmp_path: Path, cache: Path) -> None:
    """The images are uncompressed and all files have one time, as if unpacked from a reproducible archive."""
    roots = tmp_path / "v1", tmp_path / "v2"
    for number, root in enumerate(roots):
        for place in ("train/a/1.bmp", "train/b/1.bmp", "test/a/1.bmp", "test/b/1.bmp"):
            os.utime(write(root / place, noise(number)), ns=(10**18, 10**18))
    one, two = (folder.load(root, cache) for root in roots)
    assert not same(one, two)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 4
    file.write_bytes(content)


def rewrite(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], *, stated: str | None = None) -> Harm:
    """Return what changes the tensors of the cache, and perhaps says the sha256 that the former ones had."""

    def harm(file: Path) -> None:
        opened: Any = safe_open(file, framework="pt")
        with opened as stored:
            metadata = stored.metadata()
        save_file(change(load_file(file)), file, metadata if stated is None else {"sha256": stated})

    return harm


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGE: dict[str, Harm] = {
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\xff" * 4096),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "all hole": lambda file: os.truncate(file, 2**40),
    "one bit": flip_a_bit,
    "another split": rewrite(lambda images: {"train": images["train"], "val": images["test"]}),
    "another format": rewrite(lambda images: {name: image.float() for name, image in images.items()}),
    "images twice": rewrite(lambda images: {name: torch.cat((image, image)) for name, image in images.items()}),
    "no hash": rewrite(lambda images: images, stated=""),
    "a pipe": pipe,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_cache_is_decoded_again(
    birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    first = folder.load(birds, cache)
    (file,) = cache.iterdir()
    DAMAGE[damage](file)
    assert same(folder.load(birds, cache), first)
    if damage not in ("a pipe", "a folder"):  # those are left where they are
        no_decoding(monkeypatch)
        assert same(folder.load(birds, cache), first), "the cache was not repaired"


def test_a_cache_that_cannot_be_written_costs_time_only(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "cache"
    data = folder.load(birds, place)
    assert f"images cannot be cached in {place} (Not a directory), so every start decodes them" in data.notes
    cached = folder.load(birds, tmp_path / "cache")
    assert same(data, cached)
    assert not any("cached" in note for note in cached.notes)


def test_missing_folder(tmp_path: Path, cache: Path) -> None:
    message = refused(tmp_path / "nowhere", cache)
    assert f"data.source = folder:{tmp_path / 'nowhere'}" in message
    assert "no such folder" in message


def test_a_file_instead_of_a_folder(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "no such folder" in refused(tmp_path / "file", cache)


def test_a_path_that_the_system_refuses(tmp_path: Path, cache: Path) -> None:
    """A name too long stands for all errors of stat, such as a parent folder without permission."""
    assert "data.source" in refused(tmp_path / ("x" * 300), cache)


@pytest.mark.parametrize("present", ["", "train", "test", "val"])
def test_a_split_is_missing(tmp_path: Path, cache: Path, present: str) -> None:
    root = tmp_path / "birds"
    root.mkdir()
    if present:
        write(root / present / "owl/1.png", noise(0))
        write(root / present / "wren/1.png", noise(0))
    message = refused(root, cache)
    wanted = "test/ or val/" if present == "train" else "train/"
    for words in (f"data.source = folder:{root}", f"no folder {wanted}", "PATH/train/<class>/", "PATH/test/<class>/"):
        assert words in message


@pytest.mark.parametrize("split", ["train", "test", "val"])
@pytest.mark.parametrize("content", ["nothing", "empty classes", "images without a class", "other files"])
def test_a_split_without_images(birds: Path, cache: Path, split: str, content: str) -> None:
    if split == "val":
        (birds / "test").rename(birds / "val")
    for cls in ("owl", "wren"):
        for file in (birds / split / cls).iterdir():
            file.unlink()
        if content == "nothing":
            (birds / split / cls).rmdir()
        if content == "other files":
            (birds / split / cls / "notes.txt").write_text("")
    if content == "images without a class":
        write(birds / split / "1.png", noise(0))
    message = refused(birds, cache)
    for words in ("data.source = folder:", f"{birds / split} holds no images", "<class>", ".jpg", ".png"):
        assert words in message


def test_one_class(birds: Path, cache: Path) -> None:
    for split in ("train", "test"):
        (birds / split / "wren").rename(birds / f"{split}-wren")
    message = refused(birds, cache)
    for words in (f"data.source = folder:{birds}", "one class", "owl", "at least two"):
        assert words in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_in_one_split_only(birds: Path, cache: Path, split: str) -> None:
    write(birds / split / "heron" / "1.png", noise(0))
    message = refused(birds, cache)
    assert "only one of the two splits: heron" in message
    assert "owl" not in message.split("splits")[1]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_that_does_not_decode(birds: Path, cache: Path, split: str, damage: str, suffix: str) -> None:
    file = write(birds / split / f"wren/broken{suffix}", noise(0))
    whole = file.read_bytes()
    file.write_bytes({"text": b"not an image", "empty": b"", "cut": whole[: len(whole) // 2]}[damage])
    message = refused(birds, cache)
    for words in (
        str(file),
        "cannot be decoded",
        "repair it",
        f"take it out of the folder (data.source = folder:{birds})",
    ):
        assert words in message
    assert not cache.exists() or not list(cache.iterdir()), "half a data set was cached"
    file.unlink()
    assert len(folder.load(birds, cache).train) == 4


def test_an_image_that_goes_while_the_folder_is_read(birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, listing = next((birds / "train" / "owl").iterdir()), folder._listing  # pyright: ignore[reportPrivateUsage]

    def listed_before(path: Path, splits: tuple[str, ...], left_out: list[Path]) -> dict[str, list[Path]]:
        found = listing(path, splits, left_out)
        file.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(folder, "_listing", listed_before)
    message = refused(birds, cache)
    for words in (f"image {file} cannot be read (No such file", "repair it", "take it out"):
        assert words in message


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n{} loop\n"
HOSTILE: dict[str, tuple[Harm, str]] = {
    "PostScript that never ends": (lambda file: file.write_bytes(POSTSCRIPT), "decoded (it is none of JPEG, PNG"),
    "too many pixels": (lambda file: file.write_bytes(b"P5 8193 8193 255\n"), "67125249 pixels"),
    "far too many": (lambda file: file.write_bytes(b"P5 1000000 1000000 255\n"), "decompression bomb"),
    "all hole": (lambda file: (file.touch(), os.truncate(file, 2**40)), "1099511627776 bytes"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a link to a device": (lambda file: file.symlink_to("/dev/zero"), "is no regular file"),
    "a link to nowhere": (lambda file: file.symlink_to("nowhere"), "is a link to nowhere, which is not there"),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_what_is_only_called_an_image_is_refused(birds: Path, cache: Path, what: str) -> None:
    harm, words = HOSTILE[what]
    file = birds / "train/owl/deep/x.jpg"
    file.parent.mkdir()
    harm(file)
    message = refused(birds, cache)
    for word in (f"image {file} ", words, "take it out of the folder"):
        assert word in message


def test_all_images_that_do_not_decode_are_named(birds: Path, cache: Path) -> None:
    for number in range(23):
        (birds / "train/owl" / f"bad{number:02}.png").write_text("no image")
    said = refused(birds, cache)
    assert said.startswith(
        f"23 images cannot be used: image {birds}/train/owl/bad00.png cannot be decoded (it is none of"
    )
    assert said.count("bad") == 20
    assert said.endswith(f"; and 3 more: repair them, or take them out of the folder (data.source = folder:{birds})")


def test_what_is_no_file_and_what_does_not_decode_are_named_together(birds: Path, cache: Path) -> None:
    os.mkfifo(birds / "train/owl/pipe.png")
    (birds / "test/wren/text.png").write_text("no image")
    said = refused(birds, cache)
    for words in ("2 images cannot be used", "pipe.png is no regular file", "text.png cannot be decoded"):
        assert words in said


def test_only_images_that_are_taken_are_decoded(birds: Path, cache: Path) -> None:
    (birds / "train/owl/2.png").write_text("no image")
    data = folder.load(birds, cache, Selection(train=2))
    assert (data.train.labels.tolist(), len(data.test)) == ([0, 1], 2)
    assert "2.png" in refused(birds, cache), "the cache of some images is not that of all"


def test_more_images_than_memory_holds(birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_decoding(monkeypatch)
    monkeypatch.setattr(selection, "memory", lambda: 2 * 5 * 3072)
    said = refused(birds, cache)
    for words in (
        f"data.source = folder:{birds}",
        "4 training images and 2 test images",
        "data.train_images",
        "at most 5",
    ):
        assert words in said


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_the_cache_is_as_the_umask_says(birds: Path, cache: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder.load(birds, cache)
    finally:
        os.umask(before)
    [file] = cache.iterdir()
    assert file.stat().st_mode & 0o777 == mode


def test_an_image_may_be_of_another_accepted_format_than_its_name(birds: Path, cache: Path) -> None:
    before = folder.load(birds, cache)
    (birds / "train/owl/1.png").rename(birds / "train/owl/1.jpg")
    assert same(folder.load(birds, cache), before)


def test_a_folder_below_a_class_that_cannot_be_read_is_not_left_out(
    birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = birds / "train/owl/2024"
    write(locked / "3.png", noise(0))
    scan = os.scandir

    def scanned(place: Any) -> Any:
        if Path(place) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", scanned)
    assert f"{locked} cannot be read: Permission denied" in refused(birds, cache)


@pytest.mark.parametrize("call", ["open", "scandir"])
def test_a_disk_that_breaks_is_no_bad_image(
    birds: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(birds))

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(OSError, match="Input/output error"):
        folder.load(birds, cache)
