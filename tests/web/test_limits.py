from __future__ import annotations

import pytest

from pibot.web import Buckets, network_of
from tests.support.clocks import FakeClock


def test_a_bucket_gives_its_tokens_at_once_and_then_as_they_come_back() -> None:
    clock = FakeClock()
    buckets = Buckets(10, clock=clock)
    assert [buckets.take("a") for _ in range(11)] == [0] * 10 + [6]
    assert buckets.wait("a") == 6
    clock.now += 5.9
    assert buckets.take("a") == 1
    clock.now += 0.2
    assert buckets.wait("a") == 0
    assert [buckets.take("a") for _ in range(2)] == [0, 6]


def test_a_refusal_takes_no_token_so_a_caller_that_keeps_asking_gets_in_again() -> None:
    clock = FakeClock()
    buckets = Buckets(60, clock=clock)
    for _ in range(60):
        buckets.take("a")
    taken = 0
    for _ in range(600):
        clock.now += 0.1
        taken += buckets.take("a") == 0
    assert 59 <= taken <= 60


def test_one_name_does_not_use_up_the_tokens_of_another() -> None:
    buckets = Buckets(1, clock=FakeClock())
    assert (buckets.take("a"), buckets.take("b"), buckets.take("a")) == (0, 0, 60)


def test_asking_for_the_wait_takes_no_token_and_keeps_no_bucket() -> None:
    buckets = Buckets(1, clock=FakeClock())
    assert [buckets.wait("a") for _ in range(3)] == [0, 0, 0]
    assert len(buckets) == 0


def test_a_refilled_bucket_is_evicted() -> None:
    clock = FakeClock()
    buckets = Buckets(10, clock=clock)
    for number in range(100):
        buckets.take(str(number))
    clock.now += 61
    buckets.take("new")
    assert len(buckets) == 1


def test_a_flood_of_addresses_does_not_fill_the_memory() -> None:
    buckets = Buckets(10, most=100, clock=FakeClock())
    for number in range(5000):
        buckets.take(str(number))
        buckets.take("steady")
    assert len(buckets) == 100
    assert buckets.wait("steady") > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
        ("no address", "no address"),
    ],
)
def test_one_machine_is_one_caller_whichever_of_its_addresses_it_takes(address: str | None, network: str) -> None:
    assert network_of(address) == network
