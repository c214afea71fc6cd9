import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import AdapterRef, check_name

NOT_NAMES = {
    "empty": "",
    "path": "../etc/passwd",
    "slash": "a/b",
    "begins with a dot": ".a",
    "ends with a hyphen": "a-",
    "upper case": "Discharge",
    "look-alike letter": "dischаrge",
    "full-width": "ａ",
    "NUL": "a\0b",
    "lone surrogate": "\ud800",
    "line break at the end": "a\n",
    "space": "a b",
    "65 characters": "a" * 65,
    "10 KB": "a" * 10_240,
}


class TestNames:
    @pytest.mark.parametrize("name", ["a", "7", "ncbi-disease", "v1.2_b", "a" * 64])
    def test_accepts(self, name: str) -> None:
        assert name == check_name("adapter", name)

    @pytest.mark.parametrize("name", NOT_NAMES.values(), ids=NOT_NAMES)
    def test_refuses(self, name: str) -> None:
        """The message names the field, stays short and is plain text whatever was sent."""
        with pytest.raises(BadInput) as caught:
            check_name("adapter", name)
        assert "adapter" == caught.value.field
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


class TestAdapterRef:
    def test_parses_what_it_prints(self) -> None:
        ref = AdapterRef("north", "discharge", 12)
        assert ref == AdapterRef.parse("north", str(ref))

    @pytest.mark.parametrize(
        "version", ["", "0", "01", "-1", "1.0", "१", "1 ", "1000000000", "1@1"]
    )
    def test_versions_count_from_one(self, version: str) -> None:
        with pytest.raises(BadInput):
            AdapterRef.parse("north", f"discharge@{version}")

    @pytest.mark.parametrize("name", NOT_NAMES.values(), ids=NOT_NAMES)
    def test_every_part_is_a_name(self, name: str) -> None:
        """No reference exists whose tenant or name could be taken for a path or for another's."""
        for tenant, adapter in ((name, "a"), ("north", name)):
            with pytest.raises(BadInput):
                AdapterRef(tenant, adapter, 1)

    def test_cannot_name_another_tenants(self) -> None:
        """The tenant comes from the key, never from the text."""
        with pytest.raises(BadInput):
            AdapterRef.parse("north", "south/discharge@1")

    def test_sorts_versions_as_numbers(self) -> None:
        assert AdapterRef("n", "a", 9) < AdapterRef("n", "a", 10) < AdapterRef("n", "b", 1)
