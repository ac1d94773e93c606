"""Custom collectives: a trace per rank instead of a built-in algorithm, read through files.

Sends, receives and compute nodes take the time of messages and durations; there are no bus trips and no
reductions, and the size of the collective node does not matter.
"""

from __future__ import annotations

import re

import pytest
from astra_sim_builders import (
    MIB,
    STEP,
    all_reduce,
    among,
    comp,
    message_ns,
    numbers,
    recv,
    reduction_ns,
    send,
)

from astra_sim import (
    EtRecord,
    Graph,
    InputError,
    NetworkConfig,
    Node,
    NodeKind,
    SystemConfig,
    write_comm_groups,
    write_et,
    write_graphs,
    write_network,
    write_system,
)
from astra_sim.cli import main
from astra_sim.custom_collectives import read_custom_collectives


def ring(ranks: int, rounds: int) -> list[list[Node]]:
    """Each round every rank sends to the next and receives from the previous; a send waits for the receipt."""
    return [
        [
            node
            for step in range(rounds)
            for node in (
                send(2 * step, (rank + 1) % ranks, *([2 * step - 1] if step else []), tag=step),
                recv(2 * step + 1, (rank - 1) % ranks, *([2 * step - 1] if step else []), tag=step),
            )
        ]
        for rank in range(ranks)
    ]


class Case:
    """A folder with a system of NPUs in a full mesh whose all-reduce is custom."""

    def __init__(self, folder, capsys, npus: int = 4) -> None:
        self.folder = folder
        self.npus = npus
        self._capsys = capsys
        write_network(folder / "network.yml", NetworkConfig.flat("FullyConnected", npus, 50, 500))
        self.system(all_reduce_custom=(f"{folder}/custom",))

    def system(self, **fields) -> None:
        write_system(self.folder / "system.json", SystemConfig(**{"local_mem_bw_gbps": 1600} | fields))

    def custom(self, graphs, size: int, name: str = "custom", durations=()) -> None:
        self.folder.joinpath(name).parent.mkdir(exist_ok=True)
        graphs = [Graph(tuple(nodes)) for nodes in graphs]
        write_graphs(self.folder / name, graphs, numbers(*durations), numbers(size))

    def run(self, graphs=None, size: int = MIB) -> int:
        graphs = [Graph(tuple(nodes)) for nodes in graphs or [[all_reduce(0)]] * self.npus]
        groups = write_graphs(self.folder / "trace", graphs, numbers(1000), numbers(size))
        write_comm_groups(self.folder / "groups.json", groups)
        return main(
            [
                f"--workload-configuration={self.folder}/trace",
                f"--system-configuration={self.folder}/system.json",
                f"--network-configuration={self.folder}/network.yml",
                f"--comm-group-configuration={self.folder}/groups.json",
            ]
        )

    def finishes(self, graphs=None, size: int = MIB) -> list[int]:
        """Finish cycles in order of the NPUs."""
        code = self.run(graphs, size)
        captured = self._capsys.readouterr()
        assert (code, captured.err) == (0, "")
        lines = re.findall(r"sys\[(\d+)\] finished, (\d+) cycles", captured.out)
        return [int(cycles) for _, cycles in sorted(lines, key=lambda line: int(line[0]))]

    def error(self, graphs=None) -> str:
        """What the command says on stderr."""
        assert self.run(graphs) == 2
        return self._capsys.readouterr().err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def case(tmp_path, capsys):
    return Case(tmp_path, capsys)


# Time


def test_a_ring_takes_the_message_time_of_the_built_in_ring(case):
    """2 (n-1) msg(D/n): the built-in one less its 2n-1 bus trips and n-1 reductions."""
    case.custom(ring(4, 6), MIB // 4)
    custom = case.finishes()
    case.system()
    built_in = case.finishes()
    bus_trips = 7 * STEP + 3 * reduction_ns(MIB // 4)
    assert custom == [6 * message_ns(MIB // 4)] * 4 == [end - bus_trips for end in built_in]


def test_the_size_of_the_collective_node_does_not_matter(case):
    case.custom(ring(4, 1), 12_345)
    assert case.finishes(size=1) == case.finishes(size=MIB) == [message_ns(12_345)] * 4


def test_free_nodes_start_together_on_no_unit(case):
    """Three sends of a rank at once, and a computation of 7000 ns after each receipt, side by side."""
    everybody = [
        [send(other, other, tag=rank) for other in range(4) if other != rank]
        + [recv(10 + other, other, tag=other) for other in range(4) if other != rank]
        + [comp(20 + other, 10 + other) for other in range(4) if other != rank]
        for rank in range(4)
    ]
    case.custom(everybody, MIB, durations=[7000])
    assert case.finishes() == [message_ns(MIB) + 7000] * 4


def test_a_duration_of_0_is_1_ns(case):
    case.custom([[comp(0), comp(1, 0)]] * 4, 1, durations=[0])
    assert case.finishes() == [2] * 4


def test_control_dependencies_count(case):
    second = Node(1, NodeKind.COMP, ctrl_deps=(0,), duration_slot=0)
    case.custom([[comp(0), second]] * 4, 1, durations=[300])
    assert case.finishes() == [600] * 4


def test_a_rank_that_has_done_its_part_goes_on(case):
    """Rank 0 sends to all others; nobody waits for anybody else."""
    graphs = [[send(i, i, tag=i) for i in (1, 2, 3)]] + [[recv(0, 0, tag=rank)] for rank in (1, 2, 3)]
    case.custom(graphs, MIB)
    sender = [all_reduce(0), comp(1, 0)]
    end = message_ns(MIB)
    assert case.finishes([sender, *[[all_reduce(0)]] * 3]) == [end + 1000, end, end, end]


def test_collectives_follow_each_other(case):
    case.custom(ring(4, 1), MIB)
    assert case.finishes([[all_reduce(0), all_reduce(1)]] * 4) == [2 * message_ns(MIB)] * 4


def test_messages_of_a_custom_collective_meet_those_of_the_trace(case):
    """Tags share one range: rank 0 sends tag 5, NPU 1's own node receives it."""
    case.custom([[send(0, 1, tag=5)], *[[comp(0)]] * 3], MIB, durations=[1])
    receiver = [all_reduce(0), recv(1, 0, tag=5)]
    end = message_ns(MIB)
    assert case.finishes([[all_reduce(0)], receiver, [all_reduce(0)], [all_reduce(0)]]) == [end, end, 1, 1]


def test_no_memory_bandwidth_is_needed(case):
    case.system(all_reduce_custom=(f"{case.folder}/custom",), local_mem_bw_gbps=None)
    case.custom(ring(4, 1), MIB)
    assert case.finishes() == [message_ns(MIB)] * 4


# Which collective runs what


def test_ranks_are_positions_in_the_group(case):
    """Members 3 and 1 (in this order): NPU 3 is rank 0, which sends to rank 1."""
    case.custom([[send(0, 1)], [recv(0, 0), comp(1, 0)]], MIB, durations=[50])
    end = message_ns(MIB)
    assert case.finishes(among(4, (1, 3), all_reduce(0, group=(3, 1)))) == [0, end + 50, 0, end]


def test_two_groups_run_it_side_by_side(case):
    case.custom(ring(2, 1), MIB)
    halves = [[all_reduce(0, group=(0, 1))]] * 2 + [[all_reduce(0, group=(2, 3))]] * 2
    assert case.finishes(halves) == [message_ns(MIB)] * 4


def test_a_node_of_the_yaml_runs_its_own(case):
    """Node 7 is custom, node 3 the ring: step + 2 (n-1) (msg + step) + (n-1) red."""
    case.custom(ring(4, 1), MIB)
    (case.folder / "nodes.yml").write_text(f"7: {case.folder}/custom\n")
    case.system(per_node_custom=f"{case.folder}/nodes.yml")
    built_in = STEP + 6 * (message_ns(MIB // 4) + STEP) + 3 * reduction_ns(MIB // 4)
    nodes = [all_reduce(3), all_reduce(7, 3)]
    assert case.finishes([nodes] * 4) == [built_in + message_ns(MIB)] * 4


def test_a_node_of_the_yaml_comes_before_the_kind(case):
    case.custom(ring(4, 1), MIB)
    case.custom([[comp(0)]] * 4, 1, "quick", [25])
    (case.folder / "nodes.yml").write_text(f"7: {case.folder}/quick\n")
    case.system(all_reduce_custom=(f"{case.folder}/custom",), per_node_custom=f"{case.folder}/nodes.yml")
    assert case.finishes([[all_reduce(3), all_reduce(7, 3)]] * 4) == [message_ns(MIB) + 25] * 4


def test_a_relative_prefix_is_looked_for_beside_the_system_file(case):
    case.custom(ring(4, 1), MIB, "ring/custom")
    (case.folder / "nodes.yml").write_text("7: ring/custom\n")
    case.system(all_reduce_custom=("ring/custom",), per_node_custom="nodes.yml")
    assert case.finishes([[all_reduce(3), all_reduce(7, 3)]] * 4) == [2 * message_ns(MIB)] * 4


def test_a_relative_prefix_is_looked_for_in_the_current_folder_first(case, monkeypatch):
    case.custom([[comp(0)]] * 4, 1, "custom", [25])
    case.custom([[comp(0)]] * 4, 1, "here/custom", [99])
    case.system(all_reduce_custom=("custom",))
    monkeypatch.chdir(case.folder / "here")
    assert case.finishes() == [99] * 4


def test_one_prefix_is_read_once(tmp_path):
    write_graphs(tmp_path / "c", [Graph((comp(0),))] * 2, numbers(1), numbers())
    system = SystemConfig(all_reduce_custom=("c",), all_gather_custom=("c",))
    customs = read_custom_collectives(system, tmp_path / "system.json", 2)
    assert len(customs.collectives) == 1
    assert set(customs.of_kind.values()) == {0}


# Errors


def test_a_prefix_without_files_is_named(case):
    path = f"{case.folder}/custom"
    assert case.error() == (
        f"{case.folder}/system.json: custom collective: {path}: there is no file {path}.0.et"
    )


def test_a_rank_beyond_the_files_is_no_peer(case):
    case.custom(ring(4, 1), MIB)
    (case.folder / "custom.3.et").unlink()
    assert case.error().startswith(f"{case.folder}/custom.0.et: node 1 (recv1): comm_src is 3; ")


@pytest.mark.parametrize(("ranks", "members"), [(2, 4), (3, 4), (4, 2)])
def test_ranks_and_members_must_agree(case, ranks, members):
    case.custom(ring(ranks, 1), MIB)
    group = tuple(range(members)) if members < 4 else ()
    assert case.error(among(4, range(members), all_reduce(0, group=group))) == (
        f"NPU 0, node 0 (ALL_REDUCE): the custom collective has {ranks} ranks, but {members} NPUs take part"
    )


def test_a_rank_without_nodes_is_named(case):
    case.custom([[comp(0)], [comp(0)], [], [comp(0)]], 1, durations=[1])
    assert case.error() == (
        "NPU 0, node 0 (ALL_REDUCE): the custom collective has no nodes for rank 2 and would never complete there"
    )


def test_the_collective_must_not_be_split(case):
    case.custom(ring(4, 1), MIB)
    case.system(all_reduce_custom=(f"{case.folder}/custom",), preferred_dataset_splits=2)
    assert case.error() == (
        "NPU 0, node 0 (ALL_REDUCE): a custom collective needs preferred-dataset-splits = 1, not 2"
    )


@pytest.mark.parametrize(
    "record",
    [
        EtRecord(5, NodeKind.COLL, "c", attributes={"comm_type": 0, "comm_size": 64}),
        EtRecord(5, NodeKind.COLL, "c", duration_ns=5, attributes={"comm_type": 5}),
        EtRecord(5, NodeKind.INVALID, "c"),
    ],
)
def test_other_nodes_than_sends_receives_and_compute_are_refused(case, record):
    case.custom([[comp(0)]] * 4, 1, durations=[1])
    write_et(case.folder / "custom.0.et", [record])
    assert case.error() == (
        "custom collective 0: NPU 0, node 5 (c): only sends, receives and compute nodes are allowed"
    )


def test_a_memory_node_is_refused(case):
    case.custom([[comp(0)]] * 4, 1, durations=[1])
    write_et(case.folder / "custom.0.et", [EtRecord(5, NodeKind.MEM_LOAD, attributes={"tensor_size": 1})])
    assert case.error().startswith("custom collective 0: NPU 0, node 5: ")


def test_a_damaged_trace_is_named(case):
    case.custom(ring(4, 1), MIB)
    (case.folder / "custom.2.et").write_bytes(b"\x50abc")
    assert case.error() == (
        f"{case.folder}/custom.2.et: byte 1: not a Chakra trace: the file is cut or damaged"
    )


def test_a_receive_that_nobody_sends_to_is_a_deadlock(case):
    case.custom([[recv(0, 1)], [comp(0)], [comp(0)], [comp(0)]], MIB, durations=[1])
    assert case.error().splitlines()[0] == (
        "deadlock: 1 node on 1 NPU can never finish; nothing is left to happen"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", ": must be a mapping of node id to the prefix of trace files"),
        ("x: custom", ": x: 'custom': must be a node id and the prefix of trace files"),
        ("7: 8", ": 7: 8: must be a node id and the prefix of trace files"),
        ("7: none", ": custom collective: none: there is no file none.0.et"),
        ("7: [", ": not valid YAML: "),
    ],
)
def test_a_wrong_yaml_is_named(tmp_path, text, message):
    (tmp_path / "nodes.yml").write_text(text)
    with pytest.raises(InputError) as error:
        read_custom_collectives(SystemConfig(per_node_custom="nodes.yml"), tmp_path / "system.json", 2)
    assert message in str(error.value)


def test_a_missing_yaml_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nodes\.yml: no such file"):
        read_custom_collectives(SystemConfig(per_node_custom="nodes.yml"), tmp_path / "system.json", 2)
