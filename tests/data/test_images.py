"""Decoding and its cache: the same pixels with and without it, and after whatever befalls it."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mabm.data import ImageReader, ImageSet, decode_image

SIZE = (16, 8)


def picture(seed: int, height: int = 20, width: int = 14) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def image_set(files: list[Path]) -> ImageSet:
    zeros = np.zeros(len(files), dtype=np.int64)
    return ImageSet(files, zeros, zeros, zeros)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data" / "cam1"
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    return paths


def as_pillow_says(
    path: Path,
    size: tuple[int, int] = SIZE,
    filter_: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    with Image.open(path) as opened:
        resized = opened.convert("RGB").resize(size[::-1], filter_)
    return np.asarray(resized).transpose(2, 0, 1)


def cache_file(folder: Path) -> Path:
    (only,) = folder.iterdir()
    return only


def same(batch: torch.Tensor) -> torch.Tensor:
    return batch


# ------------------------------------------------------------------------------------- decoding


def test_files_are_read_as_the_published_pipelines_do(files: list[Path]) -> None:
    reader = ImageReader(image_set(files), size=SIZE)
    assert len(reader) == 6
    for number, path in enumerate(files):
        image = reader[number]
        assert image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), as_pillow_says(path))


def test_test_images_are_read_as_the_published_pipelines_do(files: list[Path]) -> None:
    reader = ImageReader(image_set(files), size=SIZE, resampling="lanczos")
    for number, path in enumerate(files):
        expected = as_pillow_says(path, filter_=Image.Resampling.LANCZOS)
        assert not np.array_equal(expected, as_pillow_says(path))
        assert np.array_equal(reader[number].numpy(), expected)
        assert np.array_equal(decode_image(path, size=SIZE, resampling="lanczos"), expected)
    pixels = np.stack([np.asarray(picture(seed)).transpose(2, 0, 1) for seed in range(6)])
    arrays = ImageSet(pixels, [0] * 6, [0] * 6, [0] * 6)
    of_arrays = ImageReader(arrays, size=SIZE, resampling="lanczos")
    assert torch.equal(of_arrays.__getitems__(range(6)), reader.__getitems__(range(6)))
    unchanged = ImageReader(arrays, resampling="lanczos").__getitems__(range(6))
    assert np.array_equal(unchanged.numpy(), pixels)


def test_filters_are_checked(files: list[Path]) -> None:
    message = r"resampling must be one of \('bicubic', 'lanczos'\), got 'nearest'"
    with pytest.raises(ValueError, match=message):
        ImageReader(image_set(files), size=SIZE, resampling="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        decode_image(files[0], size=SIZE, resampling="nearest")  # type: ignore[arg-type]


def test_rows_come_in_the_order_asked_for(files: list[Path]) -> None:
    reader = ImageReader(image_set(files), size=SIZE)
    batch = reader.__getitems__([4, 0, 4])
    assert batch.shape == (3, 3, *SIZE)
    assert torch.equal(batch, torch.stack([reader[4], reader[0], reader[4]]))
    assert torch.equal(reader.__getitems__(np.array([4, 0])), batch[:2])  # type: ignore[arg-type]
    assert torch.equal(reader.__getitems__(torch.tensor([4, 0])), batch[:2])  # type: ignore[arg-type]
    assert reader.__getitems__([]).shape == (0, 3, *SIZE)
    assert len(list(reader)) == 6  # type: ignore[call-overload]


@pytest.mark.parametrize("row", [6, -1])
def test_rows_out_of_range_are_named(files: list[Path], row: int) -> None:
    with pytest.raises(IndexError, match=rf"row must be in \[0, 6\), got {row}"):
        ImageReader(image_set(files), size=SIZE)[row]


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.jpg"), ("L", "a.jpg"), ("CMYK", "a.jpg"), ("1", "a.png"), ("P", "a.bmp")],
)
def test_modes_become_rgb_as_pillow_converts_them(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    picture(0).convert(mode).save(path)
    decoded = decode_image(path)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, as_pillow_says(path, (20, 14)))


def test_transparency_is_dropped_and_the_color_below_shows(tmp_path: Path) -> None:
    opaque = picture(0)
    see_through = opaque.copy()
    see_through.putalpha(0)
    see_through.save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png"), np.asarray(opaque).transpose(2, 0, 1))


def test_palettes_with_transparency_are_looked_up(tmp_path: Path) -> None:
    indexed = picture(0).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    indexed.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    expected = np.asarray(indexed.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode_image(tmp_path / "a.png"), expected)


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path: Path) -> None:
    gray = np.array([[0, 255, 256], [0x1234, 0x80FF, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").tolist() == [[[0, 0, 1], [0x12, 0x80, 0xFF]]] * 3


def test_an_exif_orientation_is_not_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture(0).save(tmp_path / "turned.png", exif=exif)
    picture(0).save(tmp_path / "plain.png")
    turned, plain = (decode_image(tmp_path / name) for name in ("turned.png", "plain.png"))
    assert np.array_equal(turned, plain)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    picture(0, 64, 64).save(whole)
    contents = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"no image at all", "cannot identify"),
        "half.jpg": (whole.read_bytes()[: whole.stat().st_size // 2], "truncated"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be decoded as an image: .*{reason}"):
            decode_image(path)
        with pytest.raises(ValueError, match=name):
            ImageReader(image_set([whole, path]), size=SIZE).__getitems__([0, 1])
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        decode_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_range_are_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    Image.fromarray(np.ones((2, 2), dtype=dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff .* have no agreed range"):
        decode_image(tmp_path / "a.tiff")


def test_arrays_are_returned_as_they_are_or_resized() -> None:
    pixels = np.stack([np.asarray(picture(seed)).transpose(2, 0, 1) for seed in range(3)])
    images = ImageSet(pixels, [0] * 3, [0] * 3, [0] * 3)
    assert np.array_equal(ImageReader(images).__getitems__([0, 1, 2]).numpy(), pixels)
    assert np.array_equal(ImageReader(images, size=(20, 14))[2].numpy(), pixels[2])
    small = picture(1).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    resized = ImageReader(images, size=SIZE)[1].numpy()
    assert np.array_equal(resized, np.asarray(small).transpose(2, 0, 1))


def test_what_is_read_of_arrays_is_a_copy() -> None:
    images = ImageSet(np.zeros((1, 3, 2, 2), np.uint8), [0], [0], [0])
    ImageReader(images)[0].fill_(9)
    assert not np.any(images.images[0])


def test_arrays_are_never_cached(tmp_path: Path) -> None:
    images = ImageSet(np.zeros((1, 3, 2, 2), np.uint8), [0], [0], [0])
    reader = ImageReader(images, cache=tmp_path / "cache")
    assert reader[0].shape == (3, 2, 2)
    assert reader.num_cached == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [(None, r"\(height, width\) for image files, got None"), ((0, 4), r"got \(0, 4\)")],
)
def test_sizes_are_checked(files: list[Path], size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageReader(image_set(files), size=size)


def test_without_pillow_the_extra_is_named(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "mabm\[train\]"'):
        ImageReader(image_set(files), size=SIZE)
    arrays = ImageSet(np.zeros((1, 3, 2, 2), np.uint8), [0], [0], [0])
    assert ImageReader(arrays)[0].shape == (3, 2, 2)
    with pytest.raises(ImportError, match="Pillow"):
        ImageReader(arrays, size=SIZE)[0]


# ---------------------------------------------------------------------------------- the cache


def test_the_cache_gives_the_same_pixels_and_decodes_once(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ImageReader(image_set(files), size=SIZE).__getitems__(range(6))
    reader = ImageReader(image_set(files), size=SIZE, cache=tmp_path / "deep" / "cache")
    assert torch.equal(reader.__getitems__([0, 2, 2, 5]), expected[[0, 2, 2, 5]])
    assert reader.num_cached == 3
    assert torch.equal(reader.__getitems__(range(6)), expected)
    assert reader.num_cached == 6

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("mabm.data.images.decode_image", never)
    again = ImageReader(image_set(files), size=SIZE, cache=tmp_path / "deep" / "cache")
    assert torch.equal(again.__getitems__(range(6)), expected)
    assert torch.equal(pickle.loads(pickle.dumps(again)).__getitems__(range(6)), expected)


def test_filters_do_not_share_a_cache(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for resampling in ("bicubic", "lanczos", "bicubic"):
        reader = ImageReader(image_set(files), size=SIZE, resampling=resampling, cache=cache)
        filter_ = Image.Resampling[resampling.upper()]
        for number, path in enumerate(files):
            assert np.array_equal(reader[number].numpy(), as_pillow_says(path, filter_=filter_))
    assert len(list(cache.iterdir())) == 2


def test_a_changed_data_set_is_noticed(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ImageReader(image_set(files), size=SIZE, cache=cache).__getitems__(range(6))

    def begins_anew(paths: list[Path], size: tuple[int, int] = SIZE) -> bool:
        reader = ImageReader(image_set(paths), size=size, cache=cache)
        anew = reader.num_cached == 0
        for number, path in enumerate(paths):
            assert np.array_equal(reader[number].numpy(), as_pillow_says(path, size))
        return anew

    assert not begins_anew(files)
    assert begins_anew(files, (8, 8))
    assert begins_anew(files[::-1])
    assert begins_anew(files[:5])
    times = files[3].stat()
    picture(99).save(files[3])
    os.utime(files[3], ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert begins_anew(files)
    assert not begins_anew(files)


def test_a_moved_data_set_keeps_its_cache(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ImageReader(image_set(files), size=SIZE, cache=cache).__getitems__(range(6))
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = [tmp_path / "moved" / "cam1" / path.name for path in files]
    assert ImageReader(image_set(moved), size=SIZE, cache=cache).num_cached == 6


@pytest.mark.parametrize("place", ["pixels", "mark", "neighbor"])
def test_a_torn_row_is_decoded_again(files: list[Path], tmp_path: Path, place: str) -> None:
    cache = tmp_path / "cache"
    expected = ImageReader(image_set(files), size=SIZE, cache=cache).__getitems__(range(6))
    path = cache_file(cache)
    content = bytearray(path.read_bytes())
    row = 3 * SIZE[0] * SIZE[1]
    marks, rows = len(content) - 6 * (row + 8), len(content) - 6 * row
    if place == "pixels":  # the second half of row 2 never reached the disk
        content[rows + 2 * row + row // 2 : rows + 3 * row] = bytes(row // 2)
    elif place == "mark":  # half of the mark of row 2
        content[marks + 2 * 8 : marks + 2 * 8 + 3] = bytes(3)
    else:  # row 2 holds all of another row, its pixels and its mark
        content[rows + 2 * row : rows + 3 * row] = content[rows + 4 * row : rows + 5 * row]
        content[marks + 2 * 8 : marks + 3 * 8] = content[marks + 4 * 8 : marks + 5 * 8]
    path.write_bytes(content)
    mended = ImageReader(image_set(files), size=SIZE, cache=cache)
    assert torch.equal(mended.__getitems__(range(6)), expected)
    files[2].unlink()  # and what was decoded again was kept again
    assert torch.equal(mended[2], expected[2])


@pytest.mark.parametrize("length", [0, 10, 128, 700])
def test_a_cache_cut_short_is_filled_up(files: list[Path], tmp_path: Path, length: int) -> None:
    cache = tmp_path / "cache"
    expected = ImageReader(image_set(files), size=SIZE, cache=cache).__getitems__(range(6))
    os.truncate(cache_file(cache), length)
    for _ in range(2):
        reader = ImageReader(image_set(files), size=SIZE, cache=cache)
        assert torch.equal(reader.__getitems__(range(6)), expected)
    assert reader.num_cached == 6


def test_a_process_killed_while_it_writes_leaves_no_wrong_pixels(
    files: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    # Killed within its third row, of which half of the pixels are written.
    code = f"""
        import os, signal
        from pathlib import Path
        from mabm.data import ImageReader, ImageSet
        files = sorted(Path({str(files[0].parent)!r}).iterdir())
        images = ImageSet(files, [0] * 6, [0] * 6, [0] * 6)
        reader = ImageReader(images, size={SIZE}, cache=Path({str(cache)!r}))
        reader.__getitems__([0, 1])
        write = os.pwrite
        def half(file, content, offset):
            write(file, content[: len(content) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        os.pwrite = half
        reader[2]
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    reader = ImageReader(image_set(files), size=SIZE, cache=cache)
    assert reader.num_cached == 2
    expected = ImageReader(image_set(files), size=SIZE).__getitems__(range(6))
    assert torch.equal(reader.__getitems__(range(6)), expected)


def test_workers_share_a_cache(files: list[Path], tmp_path: Path) -> None:
    expected = ImageReader(image_set(files), size=SIZE).__getitems__(range(6))
    reader = ImageReader(image_set(files), size=SIZE, cache=tmp_path / "cache")
    batches = BatchSampler(SequentialSampler(range(6)), batch_size=2, drop_last=False)
    # Twice, so that every row may be written by one worker and read by the other.
    for _ in range(2):
        loader = DataLoader(reader, batch_sampler=batches, num_workers=2, collate_fn=same)
        assert torch.equal(torch.cat(list(loader)), expected)
    assert reader.num_cached == 6


def test_two_readers_may_hold_one_cache_open(files: list[Path], tmp_path: Path) -> None:
    first, second = (
        ImageReader(image_set(files), size=SIZE, cache=tmp_path / "cache") for _ in range(2)
    )
    expected = first[1]
    files[1].unlink()
    assert torch.equal(second[1], expected)


def test_on_a_full_disk_decoding_goes_on(
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = ImageReader(image_set(files), size=SIZE).__getitems__(range(6))
    reader = ImageReader(image_set(files), size=SIZE, cache=tmp_path / "cache")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.pwrite", full)
    with caplog.at_level(logging.WARNING, logger="mabm"):
        assert torch.equal(reader.__getitems__(range(6)), expected)
    assert reader.num_cached == 0
    (record,) = caplog.records
    assert "no more images are cached: No space left" in record.getMessage()


def test_a_foreign_file_is_never_overwritten(files: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ImageReader(image_set(files), size=SIZE, cache=cache)
    path = cache_file(cache)
    own = path.read_bytes()
    assert own.startswith(b"mabm decoded images 1: (6, 3, 16, 8)\n")
    for content in (b"somebody's letter", bytes(10_000), own.replace(b"(6, 3,", b"(7, 3,")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a cache of 6 images"):
            ImageReader(image_set(files), size=SIZE, cache=cache)
        assert path.read_bytes() == content


def test_a_failed_image_is_not_cached(files: list[Path], tmp_path: Path) -> None:
    files[1].write_bytes(files[1].read_bytes()[:60])
    reader = ImageReader(image_set(files), size=SIZE, cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1\.png cannot be decoded"):
            reader[1]
    assert reader.num_cached == 0


def test_a_missing_file_is_named_before_anything_is_read(files: list[Path], tmp_path: Path) -> None:
    files[4].unlink()
    with pytest.raises(FileNotFoundError, match=r"4\.png"):
        ImageReader(image_set(files), size=SIZE, cache=tmp_path / "cache")


def test_an_empty_set_may_have_a_cache(tmp_path: Path) -> None:
    reader = ImageReader(image_set([]), size=SIZE, cache=tmp_path / "cache")
    assert len(reader) == 0
    assert reader.num_cached == 0
