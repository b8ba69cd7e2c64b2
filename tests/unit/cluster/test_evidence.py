"""Evidence by stages: it adds up as a plain mapping does, and tells what has changed without looking at what has not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.state import State
from cluster.store.rows import changes

KEYS = st.builds(EvidenceKey, st.sampled_from(["digits", "credit"]), st.sampled_from(["r1.1", "r1.2", "r2.1"]), st.integers(1, 2))
COUNTED = st.dictionaries(KEYS, st.builds(Counts, rows=st.integers(1, 9)))


@given(COUNTED, COUNTED)
def test_it_adds_up_and_shares_what_did_not_change(before: dict[EvidenceKey, Counts], more: dict[EvidenceKey, Counts]) -> None:
    evidence = Evidence(before)
    after = evidence.adding(more)
    assert after == before | {key: before.get(key, Counts()) + counts for key, counts in more.items()}
    assert evidence == before
    assert len(after) == len(before | more)
    for key in before:
        told = any((key.model, key.stage) == (other.model, other.stage) for other in more)
        same = after.of(key.model, key.stage) is evidence.of(key.model, key.stage)
        assert same is not told


@given(COUNTED, COUNTED)
def test_what_is_other_than_before_is_what_is_written(
    before: dict[EvidenceKey, Counts], after: dict[EvidenceKey, Counts]
) -> None:
    new, gone = Evidence(after).since(Evidence(before))
    assert new == {key: counts for key, counts in after.items() if before.get(key) != counts}
    assert set(gone) == before.keys() - after.keys()
    written, deleted = changes(State(evidence=Evidence(before)), State(evidence=Evidence(after)))
    assert (len(written.get("evidence", {})), len(deleted.get("evidence", []))) == (len(new), len(gone))


@given(COUNTED)
def test_stages_that_are_over_go_whole(counted: dict[EvidenceKey, Counts]) -> None:
    evidence = Evidence(counted)
    left = evidence.without(lambda model, stage: (model, stage) == ("digits", "r1.1"))
    assert left == {key: counts for key, counts in counted.items() if (key.model, key.stage) != ("digits", "r1.1")}
    assert set(evidence.stages("digits")) == {key.stage for key in counted if key.model == "digits"}
    assert evidence.without(lambda _model, _stage: False) is evidence
