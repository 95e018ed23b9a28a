import pytest

from icefarm_broker import BrokerAddress


def test_all_parts_of_a_url() -> None:
    address = BrokerAddress.parse("mqtts://ann:p%40ss@farm.example:9000/lab/two")
    assert address == BrokerAddress("farm.example", 9000, "ann", "p@ss", True, "lab/two")
    assert str(address) == "mqtts://ann@farm.example:9000/lab/two"


def test_what_is_left_out_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BrokerAddress.parse("mqtt://host") == BrokerAddress("host", 1883)
    assert BrokerAddress.parse("mqtts://host").port == 8883
    monkeypatch.delenv("ICEFARM_BROKER", raising=False)
    assert str(BrokerAddress.find()) == "mqtt://127.0.0.1:1883"
    monkeypatch.setenv("ICEFARM_BROKER", "mqtt://other")
    assert BrokerAddress.find().host == "other"
    assert BrokerAddress.find("mqtt://[::1]:5").host == "::1"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "begins with mqtt"),
        ("host:1883", "begins with mqtt"),
        ("mqtt://", "names no host"),
        ("mqtt://host:99999", "no number from 1 to 65535"),
        ("mqtt://host:x", "no number from 1 to 65535"),
        ("mqtt://host/a/+/b", "plus sign"),
        ("mqtt://host/a?b", r"no \? and no #"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        BrokerAddress.parse(url)


def test_a_password_is_never_printed() -> None:
    assert "secret" not in str(BrokerAddress.parse("mqtt://ann:secret@host"))
    assert "secret" not in repr(BrokerAddress.parse("mqtt://ann:secret@host"))
