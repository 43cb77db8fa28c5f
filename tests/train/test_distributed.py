"""Several processes against one: what they join, and that they train as one with the joined batch.

Two real processes, started once, write what they found; the tests compare it with what one process
finds, in float64, where rounding hides no mistake.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import training_cases
from extras import needs_training
from torch import Tensor, nn

import mabm
from mabm._core.processes import process_group
from mabm.distance.presets import DEFAULT_K1, DEFAULT_K2
from mabm.distributed.calls import open_call
from mabm.models import TwoStreamEncoder
from mabm.train import (
    ClusteringConfig,
    Learner,
    TrainResult,
    distributed,
    inputs,
    run,
    train,
    trainer,
)
from mabm.train import steps as train_steps
from mabm.train.clusters import find_clusters
from mabm.train.epoch import EpochState

pytestmark = [needs_training, pytest.mark.slow]

RANKS = 2
SECTIONS = (4, 4, 2)  # of a process
Found = list[dict[str, Any]]


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share_of(joined: Tensor, sections: tuple[int, ...], rank: int) -> Tensor:
    """A process's part of a batch that holds one section after the other."""
    parts = torch.split(joined, [RANKS * size for size in sections])
    return torch.cat(
        [part[rank * size : (rank + 1) * size] for part, size in zip(parts, sections, strict=True)]
    )


# What each process does


def one_rank(rank: int, port: int, results: str) -> None:
    """One of the processes, as ``torchrun`` would start it."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(RANKS), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # whoever starts the processes listens
    with process_group(torch.device("cpu")):
        found = {name: act(rank) for name, act in ACTS.items()}
        found["run"] = whole_run(Path(results))
    assert not dist.is_initialized()
    torch.save(found, f"{results}/{rank}.pt")


def exchange(rank: int) -> dict[str, Any]:
    part = share_of(torch.arange(20), SECTIONS, rank)
    joined = distributed.join(part, SECTIONS)
    sizes = ((3, 1), (0, 2), (4, 0), (0, 0))
    return {
        "size": (distributed.world_size(), distributed.rank()),
        "join": joined,
        "join whole": distributed.join(rows(2, 3, seed=rank)),
        "own": distributed.local_rows(joined, SECTIONS).equal(part),
        "ragged": [distributed.join_ragged(torch.full((each[rank], 2), rank)) for each in sizes],
        "share": distributed.share({"of": rank, "labels": torch.full((3,), rank)}),
        "detached": distributed.join(rows(1, 1).requires_grad_()).requires_grad,
    }


def sum_of_gradients(rank: int) -> list[Tensor | None]:
    both, one, none, frozen = (nn.Parameter(torch.zeros(2, 3)) for _ in range(4))
    frozen.requires_grad_(False)
    both.grad = torch.full((2, 3), rank + 1.0)
    if rank:
        one.grad = torch.full((2, 3), 5.0)
    distributed.sum_gradients([both, one, none, frozen])
    distributed.sum_gradients([frozen])
    return [each.grad for each in (both, one, none, frozen)]


def copied(rank: int) -> dict[str, Tensor]:
    torch.manual_seed(rank)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module(torch.rand(4, 3))
    distributed.copy_from_first(module)
    return module.state_dict()


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (6, 3)),
    "1d, long": (lambda: nn.BatchNorm1d(3), (4, 3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3, eps=0.1, momentum=0.3), (4, 3, 5, 2)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (4, 3, 2, 2)),
    "plain": (lambda: nn.BatchNorm1d(3, affine=False), (6, 3)),
    "with activation": (lambda: NormThenRelu(3), (4, 3, 5, 2)),
    "without statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (6, 3)),
}


def norm_of(name: str) -> nn.Module:
    """In a network, with modules that have no parameters; its bias frozen, as a BNNeck's is."""
    norm = NORMS[name][0]().double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(rows(3, seed=8))
            norm.bias.copy_(rows(3, seed=9))
        norm.bias.requires_grad_(False)
    return nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), norm))


class NormThenRelu(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def through(module: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor | None]:
    """Two batches, forward and back, and one in evaluation."""
    x = x.clone().requires_grad_()
    module.train()
    module(x + 1)
    output = module(x)
    output.backward(gradient)
    distributed.sum_gradients(module.parameters())
    found = {name: value.clone() for name, value in module.state_dict().items()}
    if "1.1.running_mean" in found:
        found["evaluated"] = module.eval()(x)
    for name, parameter in module.named_parameters():
        found[f"{name}.grad"] = parameter.grad
    return found | {"output": output, "x.grad": x.grad}


def normalized(rank: int) -> dict[str, Any]:
    found = {}
    for name, (_, shape) in NORMS.items():
        module = distributed.join_batch_norm(norm_of(name))
        sections = (shape[0] // RANKS,)
        parts = (share_of(rows(*shape, seed=seed), sections, rank) for seed in (1, 2))
        found[name] = through(module, *parts)
    return found


class Dense(nn.Module):
    """An encoder without batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Linear(3 * 64, 12) for _ in range(2))

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        flat = images.flatten(1) / 255
        return torch.stack([stem(flat) for stem in self.stems])[modality, torch.arange(len(flat))]


LEARNERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "two streams": (TwoStreamEncoder, {}),
    "in parts": (Dense, {"micro_batches": 2}),
}


def learner_of(name: str) -> Learner:
    kind, options = LEARNERS[name]
    torch.manual_seed(6)
    encoder = distributed.join_batch_norm(kind().double())
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3, weight_decay=0.1)
    return Learner(encoder, optimizer, **options)


def contrast(features: Tensor) -> dict[str, Tensor]:
    """Losses of the joined batch that are no sums over it."""
    memory = nn.functional.normalize(rows(2, 5, features.shape[1], seed=3), dim=2)
    targets = torch.arange(len(features)) % 5
    split = RANKS * sum(SECTIONS[:2])
    return {
        name: mabm.hybrid_contrast_loss(part, memory, own, margin=0.5)
        for name, part, own in zip(
            ("visible", "infrared"),
            torch.split(features, [split, len(features) - split]),
            torch.split(targets, [split, len(features) - split]),
            strict=True,
        )
    }


def steps(learner: Learner, images: Tensor, modality: Tensor, sections: Any) -> dict[str, Any]:
    """Three steps: the losses and features of each, and what has become of the encoder."""
    taken = [learner.step(images, modality, contrast, sections) for _ in range(3)]
    gradients = {name: each.grad for name, each in learner.encoder.named_parameters()}
    return {"taken": taken, "state": learner.encoder.state_dict(), "gradients": gradients}


def joined_batch() -> tuple[Tensor, Tensor, tuple[int, ...]]:
    sizes = tuple(RANKS * size for size in SECTIONS)
    images = 127 + 60 * rows(sum(sizes), 3, 8, 8, seed=4)
    return images, (torch.arange(len(images)) >= sum(sizes[:2])).long(), sizes


def learned(rank: int) -> dict[str, Any]:
    images, modality, _ = joined_batch()
    parts = [share_of(each, SECTIONS, rank) for each in (images, modality)]
    return {name: steps(learner_of(name), *parts, SECTIONS) for name in LEARNERS}


def left_out(rank: int) -> dict[str, Any]:
    """One process alone meets a gradient that is not finite."""
    learner = learner_of("two streams")
    if rank:
        learner.encoder.gem_power.register_hook(lambda gradient: gradient * torch.nan)
    before = {name: value.clone() for name, value in learner.encoder.state_dict().items()}
    images, modality, _ = joined_batch()
    parts = [share_of(each, SECTIONS, rank) for each in (images, modality)]
    taken = learner.step(*parts, contrast, SECTIONS)
    state = learner.encoder.state_dict()
    return {"taken": taken, "same": all(state[name].equal(before[name]) for name in state)}


RUN = ("batch.identities=2", "batch.infrared_identities=4", "batch.instances=4")
FIRST_CLUSTERS = "clustering.on_all_processes=false"
RUN += ("stage1.epochs=1", "stage1.iterations=2", "stage2.epochs=1", "stage2.iterations=2")


class Seen(NamedTuple):
    """What a process has of a run.

    Attributes:
        result: What :func:`mabm.train.train` gave.
        encoder: State of the encoder in the end.
        memories: For each epoch, by name, the clusters and the prototypes that it ended with.
    """

    result: TrainResult
    encoder: dict[str, Tensor]
    memories: list[dict[str, tuple[Tensor, Tensor]]]


def run_in(folder: Path, *more: str, dtype: torch.dtype = torch.float64) -> Seen:
    """A run on eleven identities, its encoder in float64 unless told otherwise."""
    data = training_cases.fewer_data(8, 3)
    build, begin = trainer.build_encoder, run.begin_epoch
    encoders: list[nn.Module] = []
    epochs: list[EpochState] = []

    def build_one(*args: Any, **options: Any) -> nn.Module:
        encoders.append(build(*args, **options).to(dtype))
        return encoders[-1]

    def begin_one(*args: Any) -> EpochState:
        epochs.append(begin(*args))
        return epochs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "read_data", lambda *_, **__: data)
        patch.setattr(trainer, "build_encoder", build_one)
        patch.setattr(run, "begin_epoch", begin_one)
        result = train(training_cases.small_config(*RUN, *more), folder, progress=False)
    memories = [
        {name: (each.targets, each.memory.prototypes) for name, each in epoch.memories.items()}
        for epoch in epochs
    ]
    return Seen(result, encoders[0].state_dict(), memories)


def whole_run(folder: Path) -> dict[str, Any]:
    """A run, one that goes on from its last epoch, one in float32, and one as it was before."""
    seen = {"float64": run_in(folder / "whole")}
    if distributed.rank() == 0:
        shutil.copytree(folder / "whole", folder / "resumed")
        for path in (folder / "resumed").glob("checkpoint-3-*"):
            path.unlink()
    distributed.barrier()
    run_in(folder / "resumed")
    seen["float32"] = run_in(folder / "float32", dtype=torch.float32)
    seen["first clusters"] = run_in(folder / "first", FIRST_CLUSTERS)
    result = seen["float64"].result
    return {
        "result": {"scores": [each.to_dict() for each in result.scores], "history": result.history},
        **{name: (each.encoder, each.memories) for name, each in seen.items()},
    }


def people(count: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """Features around 9 centers, with a gap between the modalities, their modality and camera."""
    identity, modality = torch.arange(count) % 9, torch.arange(count) // 4 % 2
    centers, gap = rows(9, 12, seed=5), rows(2, 12, seed=6)
    features = centers[identity] + 0.5 * gap[modality] + 0.6 * rows(count, 12, seed=7)
    camera = 2 * modality + torch.arange(count) // 8 % 2
    return nn.functional.normalize(features.float()), modality, camera


CLUSTERINGS: dict[str, dict[str, Any]] = {
    "bmil": {},
    "modal_invariant": {"preset": "modal_invariant"},
    "cameras": {
        "preset": "ca_jaccard",
        "k1": DEFAULT_K1,
        "k2": DEFAULT_K2,
        "alone_k1": 6,
        "eps": 0.3,
    },
    "half": {"subset_ratio": 0.5},
    "few": {"subset_ratio": 0.02},  # one visible sample alone: a process has none
    "naive": {"association": "naive"},
    "centered": {"center_modalities": True},
    "hungarian": {"association": "hungarian"},
    "sinkhorn": {"association": "sinkhorn"},
    "off": {"association": "off"},
}


def clusters_of(name: str, on_all_processes: bool = True) -> dict[str, Tensor | None]:
    options = {"k1": 8, "k2": 2, "eps": 0.65, "min_samples": 3, **CLUSTERINGS[name]}
    config = ClusteringConfig(**options, on_all_processes=on_all_processes)
    features, modality, camera = people()
    return vars(find_clusters(features, modality, config, together=True, camera=camera))


def clustered(_: int) -> dict[str, Any]:
    """The clusters of every kind, by all processes and by the first one, and the rows of each."""
    counts: list[int] = []

    def counting(name: str, features: Tensor, *args: Any, **more: Any) -> Any:
        counts.append(len(features))
        return open_call(name, features, *args, **more)

    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_steps, "open_call", counting)
        for name in CLUSTERINGS:
            found[name] = [(clusters_of(name, choice), counts.copy()) for choice in (True, False)]
            counts.clear()
    return found


ACTS: dict[str, Callable[[int], Any]] = {
    "exchange": exchange,
    "gradients": sum_of_gradients,
    "copied": copied,
    "normalized": normalized,
    "learned": learned,
    "left out": left_out,
    "clustered": clustered,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(one_rank, args=(store.port, str(folder)), nprocs=RANKS)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


# What came of it


def test_a_joined_batch_is_that_of_one_process(found: Found) -> None:
    for rank, each in enumerate(found):
        exchanged = each["exchange"]
        assert exchanged["size"] == (RANKS, rank)
        assert exchanged["join"].tolist() == list(range(20))
        assert exchanged["own"]
        assert exchanged["join whole"].equal(torch.cat([rows(2, 3), rows(2, 3, seed=1)]))
        assert [part[:, 0].tolist() for part in exchanged["ragged"]] == [
            [0, 0, 0, 1],
            [1, 1],
            [0, 0, 0, 0],
            [],
        ]
        assert exchanged["ragged"][3].shape == (0, 2)
        assert exchanged["share"]["of"] == 0
        assert exchanged["share"]["labels"].tolist() == [0, 0, 0]
        assert not exchanged["detached"]


def test_gradients_are_summed(found: Found) -> None:
    for each in found:
        both, one, none, frozen = each["gradients"]
        assert both.equal(torch.full((2, 3), 3.0))
        assert one.equal(torch.full((2, 3), 5.0))
        assert none is None
        assert frozen is None


def test_all_start_from_the_first(found: Found) -> None:
    expected = found[0]["copied"]
    assert expected["1.num_batches_tracked"] == 1
    assert all(value.equal(expected[name]) for name, value in found[1]["copied"].items())


@pytest.mark.parametrize("name", NORMS)
def test_batch_normalization_is_that_of_the_joined_batch(name: str, found: Found) -> None:
    shape = NORMS[name][1]
    expected = through(norm_of(name), rows(*shape, seed=1), rows(*shape, seed=2))
    assert expected["x.grad"] is not None
    for rank, each in enumerate(found):
        ours = each["normalized"][name]
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            if value is None:
                assert ours[key] is None
                continue
            if key in ("output", "x.grad", "evaluated"):
                value = share_of(value, (shape[0] // RANKS,), rank)  # noqa: PLW2901
            torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_steps_are_those_of_one_process_with_the_joined_batch(name: str, found: Found) -> None:
    expected = steps(learner_of(name), *joined_batch())
    assert expected["taken"][0][0] != expected["taken"][2][0]
    for each in found:
        ours = each["learned"][name]
        for (losses, features), (own, joined) in zip(expected["taken"], ours["taken"], strict=True):
            assert own == pytest.approx(losses, rel=1e-9)
            torch.testing.assert_close(joined, features, rtol=1e-8, atol=1e-8)
        for part in ("state", "gradients"):
            assert ours[part].keys() == expected[part].keys()
            for key, value in expected[part].items():
                if value is not None:
                    torch.testing.assert_close(ours[part][key], value, rtol=1e-7, atol=1e-8)
        # And to the bit those of each other.
        first = found[0]["learned"][name]["state"]
        assert all(value.equal(first[key]) for key, value in ours["state"].items())


def test_all_leave_a_step_out_where_one_must(found: Found) -> None:
    assert [each["left out"] for each in found] == [{"taken": None, "same": True}] * RANKS


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run_in(folder)
    return folder


def within_the_last_epoch(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint-2-0000-000001.pt", weights_only=True)


def test_a_run_of_two_processes_is_that_of_one(folder: Path, alone: Path) -> None:
    expected, found = (within_the_last_epoch(each) for each in (alone, folder / "whole"))
    assert set(expected["epoch"]["banks"]) == {"visible", "infrared", "global"}
    for name, bank in expected["epoch"]["banks"].items():
        ours = found["epoch"]["banks"][name]
        assert ours["targets"].equal(bank["targets"])  # the same clusters, label for label
        assert ours["memory"]["clusters"].equal(bank["memory"]["clusters"])
        torch.testing.assert_close(
            ours["memory"]["prototypes"], bank["memory"]["prototypes"], rtol=0, atol=1e-6
        )
    ends = [training_cases.weights_of(each) for each in (alone, folder / "whole")]
    start = torch.load(alone / "stage1.pt", weights_only=True)["state"]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-9, atol=1e-9)
    assert not ends[0]["neck.weight"].equal(start["neck.weight"])
    losses = [training_cases.history_of(each)[-1]["losses"] for each in (alone, folder / "whole")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert set(losses[0]) == {
        f"{kind} {modality}"
        for kind in ("within", "across")
        for modality in ("visible", "infrared")
    }


def test_every_process_knows_the_result(found: Found, folder: Path) -> None:
    first, second = (each["run"]["result"] for each in found)
    assert first == second
    assert first["scores"]
    history = training_cases.history_of(folder / "whole")
    assert [(each["stage"], each["epoch"]) for each in history] == [(0, 0), (1, 1), (2, 1)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_processes_agree_to_the_bit_while_clusters_change(dtype: str, found: Found) -> None:
    """On the encoder and, after every epoch, on clusters and memories."""
    (encoder, memories), (other_encoder, other_memories) = (each["run"][dtype] for each in found)
    assert all(value.equal(other_encoder[name]) for name, value in encoder.items())
    assert [list(epoch) for epoch in memories] == [list(epoch) for epoch in other_memories]
    for epoch, other in zip(memories, other_memories, strict=True):
        for name, (targets, prototypes) in epoch.items():
            assert targets.equal(other[name][0])
            assert prototypes.equal(other[name][1])
    clusters = [epoch["visible"][0].tolist() for epoch in memories]
    assert len(clusters) == 2
    assert clusters[0] != clusters[1]


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_shares_are_clustered_as_one_process_clusters_all(name: str, found: Found) -> None:
    expected = clusters_of(name)
    assert expected["alone"].max() > 2
    assert name == "off" or expected["together"].max() > 2
    for key, value in expected.items():
        for each in found:
            for clusters, _ in each["clustered"][name]:
                assert (clusters[key] is None) if value is None else clusters[key].equal(value)


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_each_process_clusters_its_share(name: str, found: Found) -> None:
    counts = torch.tensor([each["clustered"][name][0][1] for each in found])
    expected = clusters_of(name)
    calls = [int((people()[1] == group).sum()) for group in (0, 1)]
    if expected["chosen"] is not None:
        calls[0] = int(expected["chosen"].sum()) - calls[1]
    if name not in ("off", "hungarian", "sinkhorn"):
        calls.append(90 if expected["others"] is None else int(expected["others"].sum()))
    assert counts.sum(dim=0).tolist() == calls
    assert int((counts[0] - counts[1]).abs().max()) <= 1
    for each in found:  # where the first one clusters alone, no further call
        assert each["clustered"][name][1][1] == each["clustered"][name][0][1]


def test_a_run_is_the_same_whoever_clusters(folder: Path) -> None:
    expected, found = (training_cases.weights_of(folder / each) for each in ("whole", "first"))
    assert all(value.equal(found[name]) for name, value in expected.items())
    histories = [training_cases.history_of(folder / each) for each in ("whole", "first")]
    assert histories[0] == histories[1]


def test_processes_go_on_from_a_checkpoint_to_the_same_bits(folder: Path) -> None:
    expected, found = (training_cases.weights_of(folder / each) for each in ("whole", "resumed"))
    assert all(value.equal(found[name]) for name, value in expected.items())
    histories = [training_cases.history_of(folder / each) for each in ("whole", "resumed")]
    assert histories[0] == histories[1]


def test_one_process_joins_nothing() -> None:
    part, module = rows(4, 2), nn.BatchNorm1d(2)
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.join(part, (1, 3)).equal(part)
    assert distributed.local_rows(part, (1, 3)).equal(part)
    assert distributed.join_ragged(part).equal(part)
    assert distributed.share("what") == "what"
    assert distributed.join_batch_norm(module) is module
    distributed.barrier()
    with process_group(torch.device("cpu")):
        assert not dist.is_initialized()
