import gzip
import io
import tarfile
import zipfile

import pytest

from galenic_adapters.data.archives import unpacked
from galenic_adapters.errors import BadInput

FILES = {"notes/n.txt": b"gout", "notes/n.ann": b"T1\tDisease 0 4\tgout\n"}


@pytest.fixture
def pack(tmp_path):
    def pack(name, files=FILES):
        path = tmp_path / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                for inner, data in files.items():
                    archive.writestr(inner, data)
            return path
        with tarfile.open(path, "w:gz") as tar:
            for inner, data in files.items():
                info = tarfile.TarInfo(inner)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return pack


def read(path):
    with unpacked(path) as folder:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tgz"])
def test_a_folder_comes_out_as_it_went_in(pack, name):
    assert FILES == read(pack(name))


def test_one_file_alone_keeps_its_name(tmp_path):
    (tmp_path / "x.conll.gz").write_bytes(gzip.compress(b"a O"))

    with unpacked(tmp_path / "x.conll.gz") as file:
        assert ("x.conll", b"a O") == (file.name, file.read_bytes())


def test_what_is_no_archive_is_left_where_it_is(tmp_path):
    with unpacked(tmp_path) as folder:
        assert tmp_path == folder


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize("inner", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_no_path_leads_out(pack, name, inner):
    with pytest.raises(BadInput, match="holds a path that leads out of it"):
        read(pack(name, {inner: b"x"}))


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("n.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)

    assert {} == read(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.gz"])
def test_what_is_damaged_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")

    with pytest.raises(BadInput, match=f"{name}: cannot be unpacked"):
        read(tmp_path / name)


def test_what_unpacks_to_too_much_is_refused(pack):
    with (
        pytest.raises(BadInput, match=r"x\.zip: unpacks to more than 10 bytes"),
        unpacked(pack("x.zip"), max_bytes=10),
    ):
        pass
