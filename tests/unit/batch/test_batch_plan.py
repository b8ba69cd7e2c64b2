"""Units and the ledger's arithmetic, over values only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.serving import Resources
from consumers.batch.plan import InputFile, RowGroup, Unit, plan
from consumers.batch.score.pool import rooms, short_of
from consumers.batch.write.records import Receipt, remaining, totals

MB = 1024 * 1024

groups = st.lists(st.tuples(st.integers(1, 5_000_000), st.integers(1, 300 * MB)), max_size=6)
datasets = st.lists(groups, max_size=12).map(
    lambda files: tuple(
        InputFile(f"in/{at:03d}.parquet", 1000 + at, 0, tuple(RowGroup(i, rows, size) for i, (rows, size) in enumerate(file)))
        for at, file in enumerate(files)
    )
)


def pieces(units: tuple[Unit, ...]) -> list[tuple[str, int]]:
    return [(piece.path, group) for unit in units for piece in unit.slices for group in piece.row_groups]


@given(datasets, st.integers(1, 3_000_000), st.integers(1, 200 * MB), st.integers(1, 64))
def test_every_row_group_is_in_exactly_one_unit_in_order(
    files: tuple[InputFile, ...], max_rows: int, max_bytes: int, workers: int
) -> None:
    units = plan(files, max_rows=max_rows, max_bytes=max_bytes, workers=workers)
    assert pieces(units) == [(file.path, group.index) for file in files for group in file.row_groups]
    assert sum(unit.rows for unit in units) == sum(file.rows for file in files)
    assert len({unit.id for unit in units}) == len(units)
    assert [unit.id for unit in units] == sorted(unit.id for unit in units)


@given(datasets, st.integers(1, 3_000_000), st.integers(1, 200 * MB), st.integers(1, 64))
def test_a_unit_keeps_its_bounds_unless_it_is_one_row_group(
    files: tuple[InputFile, ...], max_rows: int, max_bytes: int, workers: int
) -> None:
    for unit in plan(files, max_rows=max_rows, max_bytes=max_bytes, workers=workers):
        alone = sum(len(piece.row_groups) for piece in unit.slices) == 1
        assert alone or (unit.rows <= max_rows and unit.size_bytes <= max_bytes)


@given(datasets)
def test_the_same_files_give_the_same_units(files: tuple[InputFile, ...]) -> None:
    assert plan(files, max_rows=10**6, max_bytes=64 * MB, workers=2) == plan(files, max_rows=10**6, max_bytes=64 * MB, workers=2)


def file_of(name: str, *sizes: int, size_bytes: int = 1) -> InputFile:
    return InputFile(name, size_bytes, 0, tuple(RowGroup(at, 100, size) for at, size in enumerate(sizes)))


def test_a_changed_file_changes_the_ids_of_its_units_only() -> None:
    before = plan([file_of("a", 100 * MB), file_of("b", 100 * MB)], max_rows=10**9, max_bytes=128 * MB, workers=1)
    after = plan([file_of("a", 100 * MB), file_of("b", 100 * MB, size_bytes=2)], max_rows=10**9, max_bytes=128 * MB, workers=1)
    assert before[0].id == after[0].id
    assert before[1].id != after[1].id


def test_small_files_share_a_unit() -> None:
    files = [file_of(f"{at:05d}", 4096) for at in range(20_000)]
    units = plan(files, max_rows=10**9, max_bytes=128 * MB, workers=2)
    assert [len(unit.slices) for unit in units[:-1]] == [1250] * 15  # eight units a worker
    few = [file_of(f"{at:05d}", 4096) for at in range(1000)]
    assert len(plan(few, max_rows=10**9, max_bytes=128 * MB, workers=2)) == 2  # of no fewer than 64 Ki rows


def test_a_file_of_many_row_groups_is_spread_over_workers() -> None:
    units = plan([file_of("big", *[16 * MB] * 64)], max_rows=10**9, max_bytes=1024 * MB, workers=4)
    assert len(units) == 32
    assert {len(unit.slices[0].row_groups) for unit in units} == {2}


def test_rows_of_few_bytes_are_spread_over_workers_too() -> None:
    files = [InputFile(f"{at}", 1000, 0, (RowGroup(0, 125_000, MB),)) for at in range(8)]
    units = plan(files, max_rows=10**9, max_bytes=128 * MB, workers=2)
    assert [unit.rows for unit in units] == [125_000] * 8


def receipt(unit: Unit, quarantined: int) -> Receipt:
    return Receipt(unit.id, unit.rows, min(quarantined, unit.rows), (), None, 0.1, 0.0)


@given(datasets, st.data())
def test_what_remains_and_what_is_done_make_the_whole(files: tuple[InputFile, ...], data: st.DataObject) -> None:
    units = plan(files, max_rows=10**6, max_bytes=64 * MB, workers=2)
    done = data.draw(st.lists(st.sampled_from(units), unique=True) if units else st.just([]))
    receipts = [receipt(unit, data.draw(st.integers(0, 9))) for unit in done]
    left = remaining(units, receipts)
    assert sorted([*left, *done], key=lambda unit: unit.id) == list(units)
    assert list(left) == [unit for unit in units if unit not in done]
    sums = totals(receipts)
    assert sums.units == len(done)
    assert sums.rows == sum(unit.rows for unit in done)
    assert sums.quarantined == sum(one.quarantined for one in receipts)


def test_a_run_whose_workers_do_not_fit_beside_the_rest_says_so() -> None:
    told = short_of(Resources(cpus=1), {"CPU": 0.9})
    assert told is not None
    assert told.startswith("no worker fits now: each asks for 1 CPU, and 0.9 are free")
    assert short_of(Resources(cpus=0.4), {"CPU": 0.4}) is None
    assert "1 GPU, and 0 are free" in str(short_of(Resources(cpus=0.4, gpus=1), {"CPU": 4}))


def test_as_many_workers_fit_as_the_scarcest_resource_allows() -> None:
    assert rooms(Resources(cpus=0.5, gpus=0.25), {"CPU": 16, "GPU": 1}, 9) == 4
    assert rooms(Resources(cpus=0.5, gpus=0.25), {"CPU": 1, "GPU": 1}, 9) == 2
    assert rooms(Resources(cpus=0.5, gpus=0.25), {"CPU": 16}, 9) == 0
    assert rooms(Resources(cpus=0), {"CPU": 16}, 9) == 9
