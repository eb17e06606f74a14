"Reading image data past everything that goes wrong with downloads, and views against torchvision."
import errno, gzip, hashlib, io, os, pickle, tarfile, threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torch.testing import assert_close
from torchvision.datasets import cifar as torchvision_cifar
from torchvision.datasets import stl10 as torchvision_stl10
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from contrastive_nb import images as im
from contrastive_nb.core import stream
from contrastive_nb.images import CIFAR10, CIFAR100, REGIMES, SOURCES, STL10, DataError, NoData, Views, crop_boxes, fetch, find_copy, load_images, read_source, resized_crop, to_float

CLASSES = ("cat", "dog", "frog")
N = {"train": 4, "test": 2}

# ---------------------------------------------------------------- a miniature of the official archive

class Python2Pickler(pickle._Pickler):
    "Writes byte strings as Python 2 did, like the official batches."
    dispatch = dict(pickle._Pickler.dispatch)
    def save_bytes(self, b):
        self.write(b"T" + len(b).to_bytes(4, "little") + b)
        self.memoize(b)
    dispatch[bytes] = save_bytes

def old_pickle(obj):
    f = io.BytesIO()
    Python2Pickler(f, protocol=2).dump(obj)
    return f.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")

def pixels(split):
    g = np.random.default_rng(len(split))
    return g.integers(0, 256, (len(CLASSES)*N[split], 3, 32, 32), dtype=np.uint8), np.arange(len(CLASSES)*N[split]) % len(CLASSES)

def batches():
    out = {}
    for split, names in (("train", ("data_batch_1", "data_batch_2")), ("test", ("test_batch",))):
        x, y = pixels(split)
        for name, part in zip(names, np.array_split(np.arange(len(x)), len(names))):
            out[name] = (split, old_pickle({b"data": x[part].reshape(len(part), -1), b"labels": y[part].tolist(), b"filenames": [b"a.png"]*len(part)}))
    return out

def pack(files, folder="mini-batches-py"):
    "The bytes of an archive, the same at any time of day."
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(f.getvalue(), mtime=0)

def spec_of(files, blob, **kw):
    return replace(CIFAR10, name="mini", classes=CLASSES, train=N["train"], test=N["test"], folder="mini-batches-py", archive="mini.tar.gz", size=len(blob), md5=hashlib.md5(blob).hexdigest(),
        batches=tuple((split, name, hashlib.md5(b).hexdigest()) for name, (split, b) in files.items()), urls=(), digest="", **kw)

FILES = batches()
BLOB = pack({k: b for k, (_, b) in FILES.items()})
SPEC = spec_of(FILES, BLOB)

def write_pngs(root):
    for split in N:
        x, y = pixels(split)
        for i, (im_, c) in enumerate(zip(x, y)):
            (folder := root/split/CLASSES[c]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(im_.transpose(1, 2, 0)).save(folder/f"{i}.png")
    return root

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_NB_CACHE", str(tmp_path/"cache"))
    monkeypatch.delenv("CONTRASTIVE_NB_DATA", raising=False)
    return tmp_path/"cache"

def listing(root): return sorted((str(p.relative_to(root)), p.read_bytes() if p.is_file() else None) for p in root.rglob("*"))

# ---------------------------------------------------------------- layouts

def layouts(root):
    (root/"a").mkdir()
    (root/"a"/"mini.tar.gz").write_bytes(BLOB)
    (root/"b"/"mini-batches-py").mkdir(parents=True)
    for name, (_, b) in FILES.items(): (root/"b"/"mini-batches-py"/name).write_bytes(b)
    write_pngs(root/"c")
    for suffix, mode in (("tar", "w"), ("tar.xz", "w:xz"), ("tgz", "w:gz")):
        with tarfile.open(root/f"pngs.{suffix}", mode) as tar: tar.add(root/"c", arcname="any/where")
    return [root/"a", root/"a"/"mini.tar.gz", root/"b", root/"b"/"mini-batches-py", root/"c", root/"pngs.tar", root/"pngs.tar.xz", root/"pngs.tgz"]

def test_every_layout_gives_the_same_tensors(tmp_path):
    found = [read_source(p, SPEC) for p in layouts(tmp_path)]
    assert len({d.digest for d in found}) == 1 and {d.origin for d in found} == {"official archive", "official batches", "PNG folder", "PNG archive"}
    d, (x, y) = found[0], pixels("train")
    assert d.train_y.tolist() == sorted(y.tolist()) and d.train_x.dtype == torch.uint8
    for c in range(3): # the pixels themselves, as sets: the order is canonical
        assert {t.numpy().tobytes() for t in d.train_x[d.train_y == c]} == {t.tobytes() for t in x[y == c]}

def test_digits_are_bundled():
    d = load_images("digits")
    assert d.train_x.shape == (1348, 1, 8, 8) and d.test_x.shape == (449, 1, 8, 8) and d.train_x.max() == 255
    assert d.train_y.bincount().min() > 120 and d.test_y.bincount().min() > 35

@pytest.mark.skipif("CONTRASTIVE_NB_DATA_FOR_TESTS" not in os.environ, reason="needs a copy of CIFAR-10")
def test_the_real_thing():
    d = read_source(os.environ["CONTRASTIVE_NB_DATA_FOR_TESTS"], CIFAR10)
    assert_close(d.train_x.float().mean((0, 2, 3))/255, torch.tensor([.49140, .48216, .44653]), atol=1e-5, rtol=0)

# ---------------------------------------------------------------- bad copies: a clear error, and nothing is touched

def spoil(kind, root):
    pngs = write_pngs(root)
    one = next(pngs.glob("train/dog/*.png"))
    if kind == "nothing": [p.unlink() for p in pngs.rglob("*.png")]
    if kind == "no class": [p.unlink() for p in pngs.glob("*/dog/*")]
    if kind == "one less": one.unlink()
    if kind == "one more": (one.parent/"more.png").write_bytes(one.read_bytes())
    if kind == "no test": [p.unlink() for p in pngs.glob("test/*/*")]
    if kind == "cut image": one.write_bytes(one.read_bytes()[:-200])
    if kind == "no image": one.write_bytes(b"no image")
    if kind == "wrong size": Image.new("RGB", (31, 32)).save(one)
    if kind == "strange class":
        (pngs/"train"/"unicorn").mkdir()
        (pngs/"train"/"unicorn"/"1.png").write_bytes(one.read_bytes())
    return pngs

@pytest.mark.parametrize("kind, message", [
    ("nothing", "holds neither mini.tar.gz, nor mini-batches-py/, nor train/"), ("no class", "train should have 4 images of each class, but has 0 of dog"),
    ("one less", "has 3 of dog"), ("one more", "has 5 of dog"), ("no test", "test should have 2 images of each class, but has 0 of cat, 0 of dog, 0 of frog"),
    ("cut image", "is not a readable image"), ("no image", "is not a readable image"), ("wrong size", "is 32 x 31, not 32 x 32"), ("strange class", "no class 'unicorn' in mini")])
def test_bad_folder(tmp_path, own_cache, kind, message):
    before = listing(root := spoil(kind, tmp_path/"png"))
    with pytest.raises(DataError, match=message): load_images("mini", root, SPEC)
    assert listing(root) == before and not list(own_cache.glob("*"))

def test_missing_root_and_unknown_name(tmp_path):
    with pytest.raises(NoData, match="--root or CONTRASTIVE_NB_DATA"): load_images("mini", tmp_path/"nowhere", SPEC)
    with pytest.raises(DataError, match="no data set 'cifar11'; there are cifar10, cifar100, stl10, digits"): load_images("cifar11", tmp_path)
    with pytest.raises(NoData, match="contrastive-nb data fetch"): load_images("cifar10")

def test_variable_names_the_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_NB_DATA", str(write_pngs(tmp_path/"png")))
    assert load_images("mini", spec=SPEC).origin == "PNG folder"

@pytest.mark.parametrize("blob, message", [(BLOB[:-1], "is truncated"), (BLOB[:100], "is truncated: 100 of"), (BLOB[:-9] + b"x" + BLOB[-8:], "has MD5"), (BLOB + b"x", "has MD5")])
def test_bad_archive(tmp_path, own_cache, blob, message):
    (tmp_path/"mini.tar.gz").write_bytes(blob)
    with pytest.raises(DataError, match=message): load_images("mini", tmp_path, SPEC)
    assert (tmp_path/"mini.tar.gz").read_bytes() == blob and not list(own_cache.glob("*"))

@pytest.mark.parametrize("suffix", ["tar", "tar.xz", "tgz"])
def test_cut_png_archive(tmp_path, suffix):
    layouts(tmp_path)
    path = tmp_path/f"pngs.{suffix}"
    path.write_bytes(path.read_bytes()[:-len(path.read_bytes())//3])
    with pytest.raises(DataError, match="pngs|has .* of"): read_source(path, SPEC)

def test_altered_pixels_with_right_counts(tmp_path):
    root, right = write_pngs(tmp_path/"png"), read_source(tmp_path/"png", SPEC).digest
    assert read_source(root, replace(SPEC, digest=right)).digest == right
    Image.new("RGB", (32, 32)).save(next(root.glob("test/cat/*.png")))
    with pytest.raises(DataError, match="the counts are right, but the pixels are not those of mini"): read_source(root, replace(SPEC, digest=right))

def with_batch(name, content):
    files = {**FILES, name: (FILES[name][0], content)}
    return files, spec_of(files, pack({k: b for k, (_, b) in files.items()}))

class Payload:
    def __init__(self, call, *args): self.call, self.args = call, args
    def __reduce__(self): return self.call, self.args

@pytest.mark.parametrize("call", [os.mkdir, eval, getattr, np.load, np.fromfile])
def test_no_pickle_runs_code(tmp_path, call):
    "Even a batch with the right checksum cannot call anything but the constructor of arrays."
    target = tmp_path/"made-by-a-pickle"
    args = {os.mkdir: (str(target),), eval: (f"__import__('os').mkdir({str(target)!r})",)}.get(call, ("x",))
    files, spec = with_batch("data_batch_1", pickle.dumps({b"data": Payload(call, *args), b"labels": []}, protocol=2))
    (tmp_path/"mini.tar.gz").write_bytes(pack({k: b for k, (_, b) in files.items()}))
    with pytest.raises(DataError, match="data_batch_1: a data file must not name"): read_source(tmp_path, spec)
    assert not target.exists()

def test_checksum_before_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(im.ArrayUnpickler, "load", lambda self: pytest.fail("opened before the checksum was compared"))
    for name, (_, b) in FILES.items(): (tmp_path/name).write_bytes(b[:-1])
    with pytest.raises(DataError, match="data_batch_1 has MD5"): read_source(tmp_path, SPEC)

def test_missing_and_cut_batches(tmp_path):
    (tmp_path/"data_batch_1").write_bytes(FILES["data_batch_1"][1])
    with pytest.raises(DataError, match="lacks data_batch_2, test_batch"): read_source(tmp_path, SPEC)
    files, spec = with_batch("test_batch", FILES["test_batch"][1][:-50]) # cut before its checksum was taken
    for name, (_, b) in files.items(): (tmp_path/name).write_bytes(b)
    with pytest.raises(DataError, match="test_batch: "): read_source(tmp_path, spec)

# ---------------------------------------------------------------- CIFAR-100 and STL-10, in miniatures of the same layout

NAMES = ("cat", "dog")

def small_pixels(split, size):
    g = np.random.default_rng(len(split))
    return g.integers(0, 256, (2*N[split], 3, size, size), dtype=np.uint8), np.arange(2*N[split]) % 2

def mini100(names=NAMES, labels=None):
    "Files and Source: two classes, one pickle per split, coarse labels that must not be read."
    files = {"meta": old_pickle({b"fine_label_names": [n.encode() for n in names], b"coarse_label_names": [b"animals"]})}
    for split in N:
        x, y = small_pixels(split, 32)
        files[split] = old_pickle({b"filenames": [b"a.png"]*len(x), b"batch_label": b"", b"fine_labels": (labels or y.tolist())[:len(x)], b"coarse_labels": [0]*len(x), b"data": x.reshape(len(x), -1)})
    rows = tuple((split, name, hashlib.md5(files[name]).hexdigest()) for split, name, _ in CIFAR100.batches)
    return files, spec_like(CIFAR100, files, rows)

def mini_stl(names=NAMES, cut=0, label=None):
    "Files and Source: labels from 1, channels column by column, unlabelled images that must not be read; by option a few bytes or a label spoilt before the checksums are taken."
    files = {"class_names.txt": "\n".join(names).encode() + b"\n", "unlabeled_X.bin": b"x"*1000, "fold_indices.txt": b"0 1\n"}
    for split in N:
        x, y = small_pixels(split, 96)
        files[f"{split}_X.bin"], files[f"{split}_y.bin"] = x.transpose(0, 1, 3, 2).tobytes(), (y + 1).astype(np.uint8).tobytes()
    if cut: files["train_X.bin"] = files["train_X.bin"][:-cut]
    if label is not None: files["test_y.bin"] = bytes([label]) + files["test_y.bin"][1:]
    rows = tuple((split, name, md5 and hashlib.md5(files[name]).hexdigest()) for split, name, md5 in STL10.batches)
    return files, spec_like(STL10, files, rows)

def spec_like(source, files, rows):
    blob = pack(files, source.folder)
    return replace(source, classes=NAMES, train=N["train"], test=N["test"], size=len(blob), md5=hashlib.md5(blob).hexdigest(), batches=rows, urls=())

def unpack(root, files, spec):
    (root/spec.folder).mkdir(parents=True)
    for name, content in files.items(): (root/spec.folder/name).write_bytes(content)
    return root

def test_sources_are_torchvisions():
    "Names, checksums and numbers that torchvision states, and the sizes of the downloads."
    assert list(SOURCES) == ["cifar10", "cifar100", "stl10"] and [s.size for s in SOURCES.values()] == [170498071, 169001437, 2640397119]
    for s, theirs in ((CIFAR100, torchvision_cifar.CIFAR100), (STL10, torchvision_stl10.STL10)):
        assert (s.folder, s.archive, s.md5, s.urls) == (theirs.base_folder, theirs.filename, theirs.tgz_md5, (theirs.url,)) and s.digest == ""
        known = {**dict(theirs.train_list), **dict(theirs.test_list), "meta": torchvision_cifar.CIFAR100.meta["md5"]}
        assert all(md5 == known[name] for split, name, md5 in s.batches if name != "class_names.txt") and "unlabeled_X.bin" not in [name for _, name, _ in s.batches]
    assert [len(s.classes)*s.train for s in SOURCES.values()] == [50000, 50000, 5000] and [len(s.classes)*s.test for s in SOURCES.values()] == [10000, 10000, 8000]

@pytest.mark.parametrize("mini, size", [(mini100, 32), (mini_stl, 96)])
def test_every_layout_of_the_other_two(tmp_path, mini, size):
    files, spec = mini()
    (tmp_path/"a").mkdir()
    (tmp_path/"a"/spec.archive).write_bytes(pack(files, spec.folder))
    unpack(tmp_path/"b", files, spec)
    for split in N:
        for i, (x, c) in enumerate(zip(*small_pixels(split, size))):
            (folder := tmp_path/"c"/split/NAMES[c]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.transpose(1, 2, 0)).save(folder/f"{i}.png")
    found = [read_source(tmp_path/p, spec) for p in ("a", f"a/{spec.archive}", "b", f"b/{spec.folder}", "c")]
    assert [d.origin for d in found] == ["official archive"]*2 + ["official batches"]*2 + ["PNG folder"] # in which train/ and test/ are no batches
    assert len({d.digest for d in found}) == 1 and found[0].train_x.shape == (8, 3, size, size) and found[0].train_x.is_contiguous()
    assert load_images(spec.name, tmp_path/"a", spec).digest == load_images(spec.name, tmp_path/"a", spec).digest == found[0].digest

@pytest.mark.parametrize("mini, theirs, module", [(mini100, torchvision_cifar.CIFAR100, torchvision_cifar), (mini_stl, torchvision_stl10.STL10, torchvision_stl10)])
def test_torchvision_reads_the_same(tmp_path, monkeypatch, mini, theirs, module):
    "Torchvision's own readers, their checksums switched off, find the same images with the same labels in the same files."
    monkeypatch.setattr(module, "check_integrity", lambda *a: True)
    files, spec = mini()
    data = read_source(unpack(tmp_path, files, spec), spec)
    for split in N:
        other = theirs(str(tmp_path), **(dict(split=split) if mini is mini_stl else dict(train=split == "train")))
        assert tuple(other.classes) == spec.classes
        pairs = [(int(y), np.asarray(image).transpose(2, 0, 1).tobytes()) for image, y in other]
        assert sorted(pairs) == sorted((y.item(), x.numpy().tobytes()) for x, y in zip(data.tensors[f"{split}_x"], data.tensors[f"{split}_y"]))

@pytest.mark.parametrize("made, message", [
    (mini100(labels=[0, 1, 2] + [0]*5), "cifar-100-python/train has label 2, not one of 0 to 1"), (mini100(labels=[-1]*8), "train has label -1, not one of 0 to 1"),
    (mini100(labels=[0]*7), r"cifar-100-python/train has 24,576 bytes of pixels, not 21,504 for 7 labels"),
    (mini100(names=("dog", "cat")), "cifar-100-python/meta: class 0 is 'dog', not 'cat'"), (mini100(names=("cat", "dog", "frog")), "meta: class 2 is 'frog', not None"),
    (mini_stl(label=0), "stl10_binary/test has label 0, not one of 1 to 2"), (mini_stl(label=3), "stl10_binary/test has label 3, not one of 1 to 2"),
    (mini_stl(cut=1), "stl10_binary/train has 221,183 bytes of pixels, not 221,184 for 8 labels"), (mini_stl(cut=3*96*96), "train has 193,536 bytes of pixels, not 221,184"),
    (mini_stl(label=2), "test should have 2 images of each class, but has 1 of cat, 3 of dog"), (mini_stl(names=("cat",)), "class_names.txt: class 1 is None, not 'dog'")])
def test_wrong_contents_with_right_checksums(tmp_path, made, message):
    files, spec = made
    (tmp_path/spec.archive).write_bytes(pack(files, spec.folder))
    for root in (tmp_path, unpack(tmp_path/"folder", files, spec)):
        with pytest.raises(DataError, match=message): read_source(root, spec)

@pytest.mark.parametrize("mini, one, other", [(mini100, "train", "meta"), (mini_stl, "test_X.bin", "train_y.bin")])
def test_missing_and_damaged_files_of_the_other_two(tmp_path, mini, one, other):
    files, spec = mini()
    folder = unpack(tmp_path, files, spec)/spec.folder
    (folder/one).write_bytes(files[one][:-1])
    with pytest.raises(DataError, match=f"{spec.folder}/{one} has MD5 {hashlib.md5(files[one][:-1]).hexdigest()}, not {hashlib.md5(files[one]).hexdigest()}"): read_source(tmp_path, spec)
    (folder/other).unlink()
    with pytest.raises(DataError, match=f"{spec.folder} lacks {other}"): read_source(tmp_path, spec)

@pytest.mark.parametrize("mini", [mini100, mini_stl])
def test_bad_archives_of_the_other_two(tmp_path, mini):
    files, spec = mini()
    blob = pack(files, spec.folder)
    for bad, message in ((blob[:-1], f"is truncated: {len(blob) - 1:,} of {len(blob):,} bytes"), (blob[:-9] + b"x" + blob[-8:], f"has MD5 .* not {spec.md5}")):
        (tmp_path/spec.archive).write_bytes(bad)
        with pytest.raises(DataError, match=message): load_images(spec.name, tmp_path, spec)

def test_class_names_without_a_checksum_may_be_absent(tmp_path):
    files, spec = mini_stl()
    del files["class_names.txt"]
    assert read_source(unpack(tmp_path, files, spec), spec).classes == NAMES

def test_unlabelled_images_are_never_in_memory(tmp_path, monkeypatch):
    files, spec = mini_stl()
    (tmp_path/spec.archive).write_bytes(pack(files, spec.folder))
    extract, names = tarfile.TarFile.extractfile, []
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda self, member: names.append(Path(member.name).name) or extract(self, member))
    read_source(tmp_path, spec)
    assert sorted(names) == ["class_names.txt", "test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin"]

@pytest.mark.parametrize("name", ["train", "meta"])
def test_no_pickle_of_cifar100_runs_code(tmp_path, name):
    target, (files, spec) = tmp_path/"made-by-a-pickle", mini100()
    files[name] = old_pickle({b"data": Payload(os.mkdir, str(target)), b"fine_label_names": []})
    rows = tuple((split, n, hashlib.md5(files[n]).hexdigest()) for split, n, _ in spec.batches)
    with pytest.raises(DataError, match=f"cifar-100-python/{name}: a data file must not name (posix|nt).mkdir"): read_source(unpack(tmp_path, files, spec), replace(spec, batches=rows))
    assert not target.exists()

def test_names_of_a_hundred_classes_are_cut_short(tmp_path):
    write_pngs(tmp_path)
    [p.rename(p.with_name("apple")) for p in tmp_path.glob("*/cat")]
    [p.unlink() for c in ("dog", "frog") for p in tmp_path.glob(f"*/{c}/*")]
    with pytest.raises(DataError, match="has 4 of apple, 0 of aquarium_fish, .* 0 of bottle, ...$"): read_source(tmp_path, CIFAR100)

# ---------------------------------------------------------------- one folder, or one variable, for all copies

def test_one_folder_holds_all(tmp_path, monkeypatch, own_cache):
    "An archive, an unpacked folder and PNGs under the data set's name, side by side; the order of the questions does not matter."
    shelf, (files100, spec100), (files_stl, spec_stl) = tmp_path/"shelf", mini100(), mini_stl()
    unpack(shelf, files100, spec100)
    (shelf/spec_stl.archive).write_bytes(pack(files_stl, spec_stl.folder))
    write_pngs(shelf/"mini")
    monkeypatch.setenv("CONTRASTIVE_NB_DATA", str(shelf))
    assert [find_copy(s) for s in (spec100, spec_stl, SPEC)] == [shelf/"cifar-100-python", shelf/"stl10_binary.tar.gz", shelf/"mini"]
    assert [load_images(s.name, spec=s).origin for s in (spec100, spec_stl, SPEC)] == ["official batches", "official archive", "PNG folder"]
    with monkeypatch.context() as m: # a fourth copy beside them leaves their caches alone
        (shelf/"more").mkdir()
        m.setattr(im, "read_source", lambda *a: pytest.fail("read again"))
        assert load_images("mini", spec=SPEC).name == "mini"
    next((shelf/"mini").glob("train/cat/*.png")).unlink()
    with pytest.raises(DataError, match="has 3 of cat"): load_images("mini", spec=SPEC)
    with pytest.raises(DataError, match="shelf holds neither cifar-10-python.tar.gz, .* data fetch --name cifar10"): load_images("cifar10")

def test_a_copy_comes_before_what_lies_inside(tmp_path):
    write_pngs(tmp_path/"mini")
    assert find_copy(SPEC, tmp_path) == tmp_path/"mini"
    write_pngs(tmp_path)
    assert find_copy(SPEC, tmp_path) == tmp_path
    unpack(tmp_path, {k: b for k, (_, b) in FILES.items()}, SPEC)
    assert find_copy(SPEC, tmp_path) == tmp_path/"mini-batches-py" # the official names, before anything else

def test_variable_then_download(tmp_path, monkeypatch, own_cache):
    "A variable that names another data set's archive hides neither the download, nor that there is none."
    files, spec = mini100()
    (tmp_path/CIFAR10.archive).write_bytes(b"another data set")
    monkeypatch.setenv("CONTRASTIVE_NB_DATA", str(tmp_path/CIFAR10.archive))
    with pytest.raises(DataError, match="cifar-10-python.tar.gz holds neither cifar-100-python.tar.gz, .*; .*cifar-100-python.tar.gz does not exist"): find_copy(spec)
    own_cache.mkdir()
    (own_cache/spec.archive).write_bytes(pack(files, spec.folder))
    assert find_copy(spec) == own_cache/spec.archive
    with pytest.raises(NoData, match="nowhere does not exist"): find_copy(spec, tmp_path/"nowhere") # a root that was named is the only place

@pytest.mark.parametrize("name", ["cifar100", "stl10"])
def test_data_command_knows_the_other_two(capsys, name):
    im.data_command("where", name)
    assert f"{name} is missing" in (out := capsys.readouterr().out) and f"data fetch --name {name}" in out
    with pytest.raises(NoData, match=f"{name} is missing"): im.data_command("verify", name)

# ---------------------------------------------------------------- the cache

def test_cache_is_used_and_follows_its_source(tmp_path, own_cache, monkeypatch):
    root = write_pngs(tmp_path/"png")
    first = load_images("mini", root, SPEC)
    assert len(list(own_cache.glob("*"))) == 1
    with monkeypatch.context() as m:
        m.setattr(im, "read_source", lambda *a: pytest.fail("read again"))
        assert load_images("mini", root, SPEC).digest == first.digest and load_images("mini", root, SPEC).classes == CLASSES
    next(root.glob("train/cat/*.png")).unlink()
    with pytest.raises(DataError, match="has 3 of cat"): load_images("mini", root, SPEC)

@pytest.mark.parametrize("damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:len(b)//2], lambda b: b""])
def test_damaged_cache_is_rebuilt(tmp_path, own_cache, damage):
    root = write_pngs(tmp_path/"png")
    first, cache = load_images("mini", root, SPEC), next(own_cache.glob("*"))
    cache.write_bytes(damage(cache.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged.*building it again"): again = load_images("mini", root, SPEC)
    assert again.digest == first.digest == im.open_images(cache).digest

def test_full_disk_leaves_nothing(tmp_path, own_cache, monkeypatch):
    root = write_pngs(tmp_path/"png")
    def full(fd): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left for 0 MB of cached images.*CONTRASTIVE_NB_CACHE") as e: load_images("mini", root, SPEC)
    assert e.value.errno == errno.ENOSPC and not list(own_cache.glob("*")) and not list(own_cache.glob(".*"))

# ---------------------------------------------------------------- the download, from a server of our own

class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, start = self.path.strip("/"), 0
        self.server.asked.append((kind, self.headers.get("Range")))
        blob = b"<html>gone</html>" if kind == "liar" else bytes(len(BLOB)) if kind == "noise" else self.server.blob
        if kind == "dead": return self.send_error(503)
        if (r := self.headers.get("Range")) and kind not in ("no-range", "noise"):
            start = int(r.removeprefix("bytes=").rstrip("-"))
            if start >= len(blob): return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(blob) - start))
        self.end_headers()
        self.wfile.write(blob[start:start + 300] if kind == "breaks" else blob[start:])
    def log_message(self, *a): pass

@pytest.fixture
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    s.asked, s.blob, s.url = [], BLOB, lambda kind: f"http://127.0.0.1:{s.server_port}/{kind}"
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()

def mirrors(server, *kinds): return replace(SPEC, urls=tuple(server.url(k) for k in kinds))

def test_fetch_and_load(server, own_cache):
    path = fetch(spec := mirrors(server, "good"), timeout=5)
    assert path == own_cache/"mini.tar.gz" and path.read_bytes() == BLOB and [p.name for p in own_cache.iterdir()] == ["mini.tar.gz"]
    assert load_images("mini", spec=spec).origin == "official archive"
    fetch(spec)
    assert len(server.asked) == 1 # what is there and right is not fetched again

def test_broken_transfer_goes_on_at_the_next_mirror(server, own_cache):
    assert fetch(mirrors(server, "breaks", "breaks", "good"), timeout=5).read_bytes() == BLOB
    assert server.asked == [("breaks", None), ("breaks", "bytes=300-"), ("good", "bytes=600-")]

def test_broken_transfer_goes_on_at_the_next_call(server, own_cache):
    with pytest.raises(DataError, match="is truncated: 300 of .* bytes"): fetch(mirrors(server, "breaks"), timeout=5)
    assert (own_cache/"mini.tar.gz.part").stat().st_size == 300 and not (own_cache/"mini.tar.gz").exists()
    assert fetch(mirrors(server, "good"), timeout=5).read_bytes() == BLOB and server.asked[-1] == ("good", "bytes=300-")

@pytest.mark.parametrize("mini", [mini100, mini_stl])
def test_fetch_of_the_other_two_goes_on(server, own_cache, monkeypatch, mini):
    "The whole way, by command: a broken transfer, the next call continues it, the archive is verified and read."
    files, spec = mini()
    server.blob = pack(files, spec.folder)
    monkeypatch.setitem(im.SOURCES, spec.name, replace(spec, urls=(server.url("breaks"),)))
    with pytest.raises(DataError, match="is truncated: 300 of"): im.data_command("fetch", spec.name)
    im.data_command("fetch", spec.name, url=server.url("good"))
    assert server.asked == [("breaks", None), ("good", "bytes=300-")] and (own_cache/spec.archive).read_bytes() == server.blob
    im.data_command("verify", spec.name)
    assert load_images(spec.name).origin == "official archive"

def test_server_without_ranges_starts_over(server, own_cache):
    own_cache.mkdir()
    (own_cache/"mini.tar.gz.part").write_bytes(BLOB[:500])
    assert fetch(mirrors(server, "no-range"), timeout=5).read_bytes() == BLOB

def test_whole_part_is_taken(server, own_cache):
    own_cache.mkdir()
    (own_cache/"mini.tar.gz.part").write_bytes(BLOB)
    assert fetch(mirrors(server, "good"), timeout=5).read_bytes() == BLOB # the server answers 416

def test_wrong_part_does_not_poison_the_archive(server, own_cache):
    own_cache.mkdir()
    (own_cache/"mini.tar.gz.part").write_bytes(b"y"*500)
    assert fetch(mirrors(server, "good", "good"), timeout=5).read_bytes() == BLOB

def test_mirrors_that_lie_or_are_dead(server, own_cache):
    assert fetch(mirrors(server, "dead", "noise", "good"), timeout=5).read_bytes() == BLOB
    (own_cache/"mini.tar.gz").unlink()
    with pytest.raises(DataError) as e: fetch(mirrors(server, "dead", "noise"), urls=("http://127.0.0.1:9/closed", "not a url"), timeout=5)
    for word in ("503", "has MD5", "refused", "not a url", "--url", "--root"): assert word in str(e.value)
    assert not list(own_cache.glob("*"))

def test_short_lie_does_not_poison_the_archive(server, own_cache):
    "A mirror that answers 200 with a short page leaves a part that no mirror can complete: the next round starts over."
    with pytest.raises(DataError): fetch(mirrors(server, "liar"), timeout=5)
    assert fetch(mirrors(server, "good", "good"), timeout=5).read_bytes() == BLOB

def test_full_disk_while_fetching(server, own_cache, monkeypatch):
    class Full(io.FileIO):
        def write(self, b): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(im, "open", lambda p, mode: Full(p, mode.replace("b", "")), raising=False)
    with pytest.raises(OSError, match="no space left for the download") as e: fetch(mirrors(server, "good", "good"), timeout=5)
    assert e.value.errno == errno.ENOSPC and len(server.asked) == 1 and not (own_cache/"mini.tar.gz").exists()

def test_data_command(tmp_path, own_cache, server, monkeypatch, capsys):
    monkeypatch.setitem(im.SOURCES, "mini", mirrors(server, "good"))
    im.data_command("where", "mini")
    assert "is missing" in capsys.readouterr().out
    im.data_command("fetch", "mini", url=server.url("dead"))
    im.data_command("verify", "mini")
    assert server.asked[0][0] == "dead" and "complete and correct" in capsys.readouterr().out
    im.data_command("where", "mini")
    assert f"{own_cache/'mini.tar.gz'} is there" in capsys.readouterr().out
    im.data_command("verify", "mini", root=str(write_pngs(tmp_path/"png"))) # without a fingerprint, PNGs can only be counted
    assert "complete, but no fingerprint is known" in capsys.readouterr().out
    monkeypatch.setitem(im.SOURCES, "mini", replace(SPEC, digest=read_source(tmp_path/"png", SPEC).digest))
    im.data_command("verify", "mini", root=str(tmp_path/"png"))
    assert "complete and correct" in capsys.readouterr().out
    with pytest.raises(DataError, match="no action 'burn'; there are where, fetch, verify"): im.data_command("burn", "mini")
    with pytest.raises(DataError, match="no data set 'maxi'"): im.data_command("where", "maxi")

# ---------------------------------------------------------------- views against torchvision, image by image

def boxes_in(n, h, w, g):
    height, width = (torch.rand(n, generator=g)*h).long() + 1, (torch.rand(n, generator=g)*w).long() + 1
    return torch.stack([(torch.rand(n, generator=g)*(h - height + 1)).long(), (torch.rand(n, generator=g)*(w - width + 1)).long(), height, width], 1)

@settings(deadline=None, max_examples=30)
@given(h=st.integers(2, 40), w=st.integers(2, 40), H=st.integers(2, 48), W=st.integers(2, 48), c=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_crop_equals_torchvision(h, w, H, W, c, seed):
    "Bilinear with antialiasing, enlarging and shrinking; float32 coordinates leave 1e-5. (Not to width 1: there torch 2.15 copies the first row downwards.)"
    g = stream(seed, "crop")
    x, boxes = torch.rand(6, c, h, w, generator=g), boxes_in(6, h, w, g)
    theirs = torch.stack([TF.resized_crop(a, *b.tolist(), [H, W], antialias=True) for a, b in zip(x, boxes)])
    assert_close(resized_crop(x, boxes, (H, W)), theirs, atol=1e-5, rtol=0)

def test_crop_to_one_column():
    column = torch.tensor([0., 1.]).view(1, 1, 2, 1)
    assert_close(resized_crop(column, torch.tensor([[0, 0, 2, 1]]), (3, 1)).flatten(), torch.tensor([0., .5, 1.]))

def test_crop_at_equal_size_needs_no_antialiasing():
    g = stream(0)
    x, boxes = torch.rand(50, 3, 32, 32, generator=g), boxes_in(50, 32, 32, g)
    theirs = torch.stack([TF.resized_crop(a, *b.tolist(), [32, 32], antialias=False) for a, b in zip(x, boxes)])
    assert_close(resized_crop(x, boxes), theirs, atol=1e-6, rtol=0)
    assert torch.equal(resized_crop(x, torch.tensor([[0, 0, 32, 32]]).expand(50, 4)), x)

@pytest.mark.parametrize("scale, size", [((.08, 1.), (32, 32)), ((.2, 1.), (32, 32)), ((.3, .5), (8, 8)), ((.5, 1.), (10, 40))])
def test_law_of_the_boxes(scale, size):
    ours = crop_boxes(6000, size, stream(0, "ours"), scale)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        theirs = torch.tensor([RandomResizedCrop.get_params(torch.empty(3, *size), list(scale), [3/4, 4/3]) for _ in range(6000)])
    for name, a, b in zip(("top", "left", "height", "width"), ours.T, theirs.T): assert ks_2samp(a, b, method="asymp").pvalue > 1e-3, name
    assert ks_2samp(ours[:, 2]*ours[:, 3], theirs[:, 2]*theirs[:, 3], method="asymp").pvalue > 1e-3
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all() and (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()

def test_boxes_that_never_fit_fall_back_to_the_centre():
    theirs = RandomResizedCrop.get_params(torch.empty(3, 2, 400), [.9, 1.], [3/4, 4/3])
    assert crop_boxes(5, (2, 400), stream(0), (.9, 1.)).tolist() == [list(theirs)]*5
    assert crop_boxes(5, (400, 2), stream(0), (.9, 1.)).tolist() == [list(RandomResizedCrop.get_params(torch.empty(3, 400, 2), [.9, 1.], [3/4, 4/3]))]*5

@pytest.mark.parametrize("ours, theirs, low, high", [(im.brightness, TF.adjust_brightness, 0., 2.), (im.contrast, TF.adjust_contrast, 0., 2.), (im.saturation, TF.adjust_saturation, 0., 2.), (im.hue, TF.adjust_hue, -.5, .5)])
@pytest.mark.parametrize("c", [1, 3])
def test_colours_equal_torchvision(ours, theirs, low, high, c):
    g = stream(0, "colours")
    x, f = torch.rand(64, c, 9, 7, generator=g), low + (high - low)*torch.rand(64, generator=g)
    x[0], x[1], x[2, :, 0] = 0., 1., .5 # black, white, a grey row: no hue
    if c == 3: x[3, 0], x[4, 1], x[5, 2] = 1., 1., 0. # ties of channels
    assert_close(ours(x, f), torch.stack([theirs(a, v.item()) for a, v in zip(x, f)]), atol=5e-6, rtol=0)

def test_grey_equals_torchvision():
    x = torch.rand(8, 3, 5, 5, generator=stream(0))
    assert_close(im.grey(x), TF.rgb_to_grayscale(x), atol=1e-6, rtol=0)

def test_a_whole_view_equals_torchvision_step_by_step():
    "The same draws, read from the same stream, applied by torchvision to one image after the other."
    v, x = Views(min_scale=.3), torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=stream(0))
    ours, g = v(x, stream(7)), stream(7)
    boxes, flips, u = crop_boxes(40, (32, 32), g, (.3, 1.)), None, None
    flips = torch.rand(40, generator=g) < v.flip
    applied = torch.rand(40, generator=g) < v.jitter
    u = 2*torch.rand(4, 40, generator=g) - 1
    order = torch.randperm(4, generator=g).tolist()
    greys = torch.rand(40, generator=g) < v.grey
    assert 0 < flips.sum() < 40 and 0 < applied.sum() < 40 and 0 < greys.sum() < 40
    ops = [lambda a, i: TF.adjust_brightness(a, 1 + .4*u[0, i].item()), lambda a, i: TF.adjust_contrast(a, 1 + .4*u[1, i].item()),
           lambda a, i: TF.adjust_saturation(a, 1 + .4*u[2, i].item()), lambda a, i: TF.adjust_hue(a, .1*u[3, i].item())]
    for i, a in enumerate(to_float(x)):
        a = TF.resized_crop(a, *boxes[i].tolist(), [32, 32], antialias=True)
        if flips[i]: a = TF.hflip(a)
        if applied[i]:
            for k in order: a = ops[k](a, i)
        if greys[i]: a = TF.rgb_to_grayscale(a, 3)
        assert_close(ours[i], a, atol=2e-5, rtol=0)

def test_views_are_drawn_image_by_image():
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=stream(0)).expand(64, -1, -1, -1)
    for regime in ("all", "crop", "all-but-crop"):
        v = REGIMES[regime](x, stream(1))
        assert v.dtype == torch.float32 and 0 <= v.min() and v.max() < 1 + 1e-6 and len(v.flatten(1).unique(dim=0)) > 40
        assert torch.equal(v, REGIMES[regime](x, stream(1))) and not torch.equal(v, REGIMES[regime](x, stream(2)))
    assert torch.equal(Views(crop=False, flip=0., jitter=0., grey=0.)(x, stream(0)), to_float(x))
    flipped = Views(crop=False, jitter=0., grey=0.)(x, stream(3))
    mirror = torch.tensor([torch.equal(a, to_float(x[0]).flip(-1)) for a in flipped])
    assert 16 < mirror.sum() < 48 and all(torch.equal(a, to_float(x[0])) for a in flipped[~mirror])
    assert Views(grey=1.)(x, stream(0)).std(1).max() < 1e-6

def test_views_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    Views()(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), stream(0))
    assert torch.equal(before, torch.get_rng_state())

@pytest.mark.parametrize("kw, message", [(dict(flip=-.1), "Views.flip"), (dict(grey=2.), "Views.grey"), (dict(min_scale=0.), "min_scale"), (dict(min_scale=1.5), "min_scale"), (dict(hue=.6), "Views.hue"), (dict(blur=2.), "Views.blur"), (dict(erase=-1.), "Views.erase"), (dict(blur_kernel=4), "odd number of pixels, not 4")])
def test_bad_views(kw, message):
    with pytest.raises(ValueError, match=message): Views(**kw)
