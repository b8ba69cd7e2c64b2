"""Places of brokers that keep copies of each other's records."""

from __future__ import annotations

import pytest

from headrace.local.broker import HOST, PROPERTIES, Seat, seats


@pytest.mark.parametrize(("count", "copies", "in_sync"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 3, 2)])
def test_a_record_counts_when_most_of_its_copies_have_it(count: int, copies: int, in_sync: int) -> None:
    places = seats(count)
    assert [place.number for place in places] == [*range(1, count + 1)]
    assert len({place.cluster_id for place in places}) == 1
    assert len(set(places[0].controller_ports)) == count
    assert [(place.settings["copies"], place.settings["in_sync"]) for place in places] == [(copies, in_sync)] * count


def test_each_knows_all_voters_and_its_own_port() -> None:
    text = PROPERTIES.format(host=HOST, data="/d", port=1, advertised_port=2, **Seat(2, (7, 8, 9), "id").settings)
    lines = text.splitlines()
    assert "node.id=2" in lines
    assert f"controller.quorum.voters=1@{HOST}:7,2@{HOST}:8,3@{HOST}:9" in lines
    assert f"listeners=PLAINTEXT://{HOST}:1,CONTROLLER://{HOST}:8" in lines
    assert "transaction.state.log.min.isr=2" in lines
