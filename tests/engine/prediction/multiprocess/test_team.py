"""Several processes: parts that equal the whole bit for bit, folders shared out, and processes that fail."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore, TCPStore

from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Crop, Normalise, Orient, Resample
from ctseg.data.stream import InMemory, open_stream
from ctseg.engine.inference.decoders import Confidence, LabelMap, Probabilities
from ctseg.engine.inference.forward import TileTooLarge
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling_settings import TilingSettings
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.multiprocess.schedule import Schedule, plan
from ctseg.engine.prediction.multiprocess.slab_sharing import SharedScan, ranges, replay
from ctseg.engine.prediction.multiprocess.team import Team, error_data, error_from, open_team
from ctseg.errors import (
    BadInput,
    CtsegError,
    DiskFull,
    FileProblem,
    RunFailed,
    UnknownName,
)
from ctseg.specs import Constraints
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry

TASK = classes_task({"a": 1, "b": 2})
STRAIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLIPPED = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
PERMUTED = ((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
WAYS = {
    "as it is": [],
    "orient": [Orient("RAS"), Normalise()],
    "coarser": [Orient(), Resample((1.3, 0.8, 2.1))],
    "finer": [Resample((0.9, 0.8, 0.7))],
    "crop, resample": [Orient(), Crop(above=0.0), Resample((1.1, 1.1, 1.1))],
}


class Toy(torch.nn.Module):
    """Depends on the place within the tile, so that tiles of other places or sizes show."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * (1 + torch.linspace(0, 2, x.shape[-3])[:, None, None]) * 0.05


class Flat(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x, -x, x * 0.5], 1) * 0.05


def stream_of(depth, way="as it is", direction=STRAIGHT):
    geometry = Geometry((depth, 9, 10), (0.9, 1.1, 1.6), (4.0, -7.0, 11.0), direction)
    array = np.random.default_rng(0).normal(3, 20, (1, depth, 9, 10)).astype(np.float32)
    array[..., :2] = -1
    return open_stream(Pipeline(WAYS[way]), InMemory(array, geometry))


def engine_of(net=None, tile=(6, 5, 8), overlap=0.5, precision="fp32", **more):
    runtime = choose("cpu", precision)
    return Predictor([(net or Toy()).eval()], TASK, TilingSettings(tile, overlap, **more), runtime)


def sinks_of(stream):
    back = SourceGridMapper(stream.applied)
    products = [LabelMap(TASK), Probabilities(TASK), Confidence(TASK)]
    arrays = [
        np.zeros((*(() if p.channels is None else (p.channels,)), *back.source), p.dtype)
        for p in products
    ]
    sinks = [ToArray(a, back.box, p.fill) for a, p in zip(arrays, products, strict=True)]
    return back, list(zip(products, sinks, strict=True)), arrays


def together(size, work, store=None):
    """`work(team)` in as many threads, each the process that it would be; what each returned or raised."""
    store = store or HashStore()
    out = [None] * size

    def one(rank):
        team = Team(store, rank, size, patience_s=30, beat_s=0.2)
        try:
            out[rank] = work(team)
        except CtsegError as error:
            out[rank] = error
        finally:
            team._left.set()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return out


def shared(folder, size, engines, streams):
    """What all processes make of one scan."""
    _, pairs, arrays = sinks_of(streams[0])

    def work(team):
        own = SourceGridMapper(streams[team.rank].applied)
        mine = pairs if team.leads else [(product, None) for product, _ in pairs]
        with SharedScan(team, "scan") as share:
            share.run(engines[team.rank], streams[team.rank], mine, mapper=own, folder=folder)

    return together(size, work), arrays


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    depth=st.integers(1, 40),
    overlap=st.sampled_from([0.0, 0.5, 0.75]),
    way=st.sampled_from(list(WAYS)),
    direction=st.sampled_from([STRAIGHT, FLIPPED, PERMUTED]),
    kind=st.sampled_from(["fp32", "bf16", "slice-wise", "air"]),
    size=st.sampled_from([2, 3, 5]),
)
@example(depth=1, overlap=0.0, way="coarser", direction=FLIPPED, kind="fp32", size=2)
def test_processes_make_together_what_one_makes(
    tmp_path, depth, overlap, way, direction, kind, size
):
    more = {"batch_size": 2, "skip_air": 10.0 if kind == "air" else None}
    net = None
    if kind == "slice-wise":
        net = Flat()
        more["constraints"] = Constraints(dims=2, context_slices=1)
    engine = engine_of(net, overlap=overlap, precision="bf16" if kind == "bf16" else "fp32", **more)
    back, pairs, whole = sinks_of(stream_of(depth, way, direction))
    engine.run(stream_of(depth, way, direction), pairs, mapper=back)
    streams = [stream_of(depth, way, direction) for _ in range(size)]
    came, arrays = shared(tmp_path, size, [engine] * size, streams)
    assert came == [None] * size
    for one, all_of_it in zip(arrays, whole, strict=True):
        np.testing.assert_array_equal(one, all_of_it)
    assert not list(tmp_path.iterdir())  # what the parts lay in is gone


@settings(max_examples=30, deadline=None)
@given(
    depth=st.integers(1, 24),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    way=st.sampled_from(["as it is", "coarser", "finer"]),
    count=st.integers(1, 3),
)
def test_no_other_seams_leave_the_busiest_process_fewer_rows(depth, overlap, way, count):
    stream, engine = stream_of(depth, way), engine_of(overlap=overlap)
    back = SourceGridMapper(stream.applied)

    def busiest(cuts):
        return max(engine.tiles(stream, back, (a, b)) for a, b in itertools.pairwise(cuts) if b > a)

    found = ranges(engine, stream, back, count)
    assert len(found) == count and found[0][0] == 0 and found[-1][1] == back.slices
    assert all(one[1] == two[0] for one, two in itertools.pairwise(found))
    inner = itertools.combinations_with_replacement(engine.seams(stream, back), count - 1)
    least = min(busiest((0, *cuts, back.slices)) for cuts in inner)
    assert busiest((0, *(stop for _, stop in found))) == least


def test_half_the_tiles_go_to_each_of_two_processes():
    stream, engine = stream_of(40), engine_of(tile=(8, 9, 10))
    back = SourceGridMapper(stream.applied)
    assert engine.tiles(stream, back, (0, 40)) == 9
    found = ranges(engine, stream, back, 2)
    assert [engine.tiles(stream, back, own) for own in found] == [5, 5]  # nine, and one at the seam


def test_all_follow_the_tiling_of_the_first(tmp_path):
    """Each plans by its own memory; the results would not fit together."""
    engine, other = engine_of(), engine_of(tile=(8, 8, 8), overlap=0.25)
    back, pairs, whole = sinks_of(stream_of(20))
    engine.run(stream_of(20), pairs, mapper=back)
    came, arrays = shared(tmp_path, 2, [engine, other], [stream_of(20), stream_of(20)])
    assert came == [None, None]
    np.testing.assert_array_equal(arrays[0], whole[0])


def test_one_that_fails_does_not_keep_the_others_waiting(tmp_path):
    class Full(Toy):
        def forward(self, x):
            raise TileTooLarge("A tile does not fit.", hint="Use a smaller one.")

    engines = [engine_of(), engine_of(), engine_of(Full())]
    came, _ = shared(tmp_path, 3, engines, [stream_of(30) for _ in range(3)])
    assert [type(error) for error in came] == [TileTooLarge] * 3, (
        came
    )  # so that all try a smaller one
    assert came[0].message == "Process 2: A tile does not fit."
    assert came[0].hint == "Use a smaller one."
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_gone_because_another_process_failed_is_not_blamed(tmp_path):
    """A process that hears of a failure removes its files; the first one may just be about to read them."""
    streams = [stream_of(30), stream_of(30)]
    _, pairs, _ = sinks_of(streams[0])

    def work(team):
        stream = streams[team.rank]
        with SharedScan(team, "scan") as share:
            if team.leads:

                def collect(*_):
                    ended.wait(20)
                    replay(tmp_path / "gone", None, 0)

                share._collect = collect
            share.run(
                engine_of(), stream, pairs, mapper=SourceGridMapper(stream.applied), folder=tmp_path
            )
            if not team.leads:
                team.put_first("share/scan/0/failed", error_data(BadInput("It is broken."), 2))
                ended.set()

    ended = threading.Event()
    error = together(2, work)[0]
    assert isinstance(error, BadInput) and error.message == "Process 2: It is broken."


def test_one_that_tries_no_more_ends_the_tries_of_the_others(tmp_path):
    """The first would begin anew with smaller tiles, the second has none smaller."""

    def work(team):
        share = SharedScan(team, "scan")
        if not team.leads:
            share.give_up(TileTooLarge("No smaller tile."))
            return
        back, pairs, _ = sinks_of(stream_of(30))
        with share:
            share.run(engine_of(), stream_of(30), pairs, mapper=back, folder=tmp_path)

    error = together(2, work)[0]
    assert isinstance(error, TileTooLarge) and error.message == "Process 1: No smaller tile."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TileTooLarge),
        (ValueError("no such axis"), RunFailed),
        (DiskFull("The disk is full."), DiskFull),
        (UnknownName("label", "livr", ["liver"]), BadInput),
        (KeyboardInterrupt(), RunFailed),
    ],
)
def test_errors_arrive_as_what_they_are(error, kind):
    found = error_from(json.loads(json.dumps(error_data(error, 3))))
    assert type(found) is kind and found.message.startswith("Process 3: ")
    assert str(error).split("\n")[0] in found.message


def test_a_failure_of_any_kind_is_told(tmp_path):
    class Broken(Toy):
        def forward(self, x):
            raise RuntimeError("no such kernel")

    def work(team):
        with SharedScan(team, "scan") as share:
            back, pairs, _ = sinks_of(stream_of(30))
            try:
                share.run(
                    engine_of(Broken() if team.rank else None), stream_of(30),
                    pairs, mapper=back, folder=tmp_path,
                )  # fmt: skip
            except RuntimeError as error:
                raise BadInput("as it comes") from error  # what threads of this test let through

    came = together(2, work)
    assert isinstance(came[0], BadInput) and came[0].message == "Process 1: as it comes"


def test_processes_that_see_different_scans_are_found_out(tmp_path):
    came, _ = shared(tmp_path, 2, [engine_of()] * 2, [stream_of(20), stream_of(21)])
    assert "do not see the same scan 'scan'" in came[1].message
    assert isinstance(came[0], RunFailed)


def test_an_output_folder_that_is_not_shared_is_found_out(tmp_path):
    streams = [stream_of(20), stream_of(20)]
    _, pairs, _ = sinks_of(streams[0])

    def work(team):
        folder = tmp_path / str(team.rank)
        folder.mkdir()
        with SharedScan(team, "scan") as share:
            stream = streams[team.rank]
            share.run(
                engine_of(), stream, pairs, mapper=SourceGridMapper(stream.applied), folder=folder
            )

    error = together(2, work)[0]
    assert isinstance(error, FileProblem) and "shared disk" in error.hint


def test_a_process_that_is_gone_is_noticed():
    store = HashStore()
    store.add("alive/1", 1)  # it was there
    team = Team(store, 0, 2, patience_s=0.2, beat_s=0.1)
    begun = time.monotonic()
    with pytest.raises(RunFailed, match="Process 1 of 2 has said nothing for"):
        team.wait("never")
    assert time.monotonic() - begun < 20
    team._left.set()


def test_a_process_that_has_nothing_left_to_do_may_leave():
    """While the first waits for the long scan of a third one."""
    store = HashStore()
    first, other = (Team(store, rank, 2, patience_s=0.2, beat_s=0.1) for rank in range(2))
    other.leave()
    later = threading.Timer(1.0, first.put, ("outcome", "made"))
    later.start()
    assert first.wait("outcome") == "made"
    later.join()
    first._left.set()


def test_a_process_that_gives_up_says_why():
    store = HashStore()
    one, two = (Team(store, rank, 2) for rank in range(2))
    two.leave(BadInput("The model has no such label."))
    with pytest.raises(RunFailed, match="Process 1 gave up: The model has no such label"):
        one.wait("never")
    one._left.set()


def test_a_process_alone_is_no_team(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with open_team() as team:
        assert team is None
    monkeypatch.setenv("WORLD_SIZE", "4")  # as a batch system may set it
    with open_team() as team:
        assert team is None


def test_a_process_that_is_ended_lets_the_others_know(monkeypatch):
    """By torchrun, for example: what lies in temporary files is removed on the way out."""
    port = TCPStore("localhost", 0, 1, is_master=True).port  # free again when the store is gone
    for name, value in [
        ("RANK", 0),
        ("WORLD_SIZE", 2),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", port),
    ]:
        monkeypatch.setenv(name, str(value))
    heard, seen = [], threading.Event()

    def other():
        team = Team(TCPStore("localhost", port, 2, is_master=False), 1, 2, beat_s=0.1)
        team.put("here", True)
        try:
            team.wait("never")
        except RunFailed as error:
            heard.append(error.message)
        seen.set()
        team._left.set()
        team._heartbeat.join()

    thread = threading.Thread(target=other)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    stores = []  # kept, or the other one would lose its own

    def first():
        with open_team() as team:
            stores.append(team.store)
            assert team.leads and team.wait("here") and team.others == [1]
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(SystemExit) as ended:
        first()
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    seen.wait(20)
    thread.join(20)
    assert heard == ["Process 0 gave up: SystemExit: 143"]


class One:
    """What a dispatch looks at."""

    images = ()

    def __init__(self, name):
        self.id = name


def test_scans_go_to_whoever_is_free(monkeypatch):
    """A slow scan keeps nobody else from the rest, and the first process hears of all."""
    sizes = {"0": 5, "1": 4, "2": 3, "3": 3, "4": 3, "5": 0}
    monkeypatch.setattr(
        "ctseg.engine.prediction.multiprocess.schedule.voxels", lambda item: sizes[item.id]
    )
    items = [One(name) for name in sizes]

    def work(team):
        dispatch = Schedule(team, items, range(6) if team.leads else [])
        mine, heard = [], {}
        for number, share in dispatch.own_cases():
            assert share is None
            mine.append(number)
            time.sleep(0.5 if number == 0 else 0.02)
            if not team.leads:
                dispatch.report(number, {"by": team.rank})
            else:
                heard |= dict(dispatch.poll())
        if team.leads:
            heard |= dict(dispatch.drain())
        return mine, heard

    came = together(2, work)
    (first, heard), (second, _) = came
    assert sorted(first + second) == [0, 1, 2, 3, 4, 5]
    assert set(heard) == set(second) and all(h == {"by": 1} for h in heard.values())
    assert 1 in (len(first), len(second))  # the one with the slow scan


@given(st.lists(st.integers(0, 40), min_size=0, max_size=7), st.integers(2, 4))
def test_what_is_shared_ends_no_later_than_everything_by_one_process(sizes, count):
    together_, single = plan(dict(enumerate(sizes)), count)
    assert sorted(together_ + single) == list(range(len(sizes)))
    shared_ = sum(sizes[n] for n in together_)
    longest = max((sizes[n] for n in single), default=0)
    assert shared_ * 1.15 / count + longest <= sum(sizes) + 1e-9


@pytest.mark.parametrize(
    ("sizes", "count", "shared_"),
    [([9], 3, [0]), ([9, 9], 2, []), ([9, 9, 9], 2, [0]), ([1, 1, 90], 2, [2]), ([5] * 8, 2, [])],
)
def test_only_scans_that_would_hold_up_the_rest_are_shared(sizes, count, shared_):
    assert plan(dict(enumerate(sizes)), count)[0] == shared_


def test_a_batch_that_one_halves_is_told_to_the_first(tmp_path):
    class Narrow(Toy):
        def forward(self, x):
            if len(x) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    _, pairs, _ = sinks_of(stream_of(30))
    heard = []

    def work(team):
        share = SharedScan(team, "scan")
        said = share.notes.append if team.rank else heard.append
        engine = engine_of(Narrow() if team.rank else None, batch_size=2)
        engine = dataclasses.replace(engine, on_note=said)
        stream = stream_of(30)
        with share:
            share.run(
                engine, stream, pairs, mapper=SourceGridMapper(stream.applied), folder=tmp_path
            )

    assert together(2, work) == [None, None]
    assert len(heard) == 1 and heard[0].startswith("Process 1: ") and "1" in heard[0]
