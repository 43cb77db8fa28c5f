"""Configurations: what ships, what overrides change, and what a mistake is told."""

import codecs
import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from extras import needs_training
from hypothesis import given
from hypothesis import strategies as st

from mabm import PRESETS
from mabm.data import INFRARED, VISIBLE
from mabm.train import (
    CONFIGS,
    AugmentationConfig,
    BatchConfig,
    ClusteringConfig,
    Config,
    load_config,
    to_toml,
)
from mabm.train.config_files import parse_config, to_tree

pytestmark = needs_training


def differing(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """By table.key, the values of both where they differ."""
    return {
        f"{table}.{key}": (value, getattr(getattr(other, table), key))
        for table, fields in dataclasses.asdict(one).items()
        for key, value in fields.items()
        if value != getattr(getattr(other, table), key)
    }


def test_the_configuration_of_sysu_is_the_published_one() -> None:
    config = load_config("sysu_mm01")
    assert config == Config()  # the defaults of the library
    assert (config.data.height, config.data.width, config.augmentation.padding) == (288, 144, 10)
    assert config.data.test_resampling == "lanczos"
    assert (config.batch.identities, config.batch.instances, config.batch.cameras) == (8, 16, True)
    assert (config.batch.sampling, config.batch.normalization) == ("released", "whole")
    assert config.augmentation.erasing_fill == pytest.approx((152.4, 143.8, 129.1), abs=0.06)
    for stage in (config.stage1, config.stage2):
        assert (stage.epochs, stage.iterations, stage.step, stage.gamma) == (50, 200, 20, 0.1)
        assert (stage.lr, stage.weight_decay) == (3.5e-4, 5e-4)
    clustering, contrast = config.clustering, config.contrast
    assert (clustering.k1, clustering.k2, clustering.eps) == (30, 6, 0.6)
    assert (clustering.k1_alone, clustering.k2_alone, clustering.subset_ratio) == (30, 6, 1.0)
    assert (contrast.temperature, contrast.momentum, contrast.margin) == (0.05, 0.1, 0.2)
    assert (contrast.num_selected, contrast.memory, contrast.split) == (50, "hybrid", True)
    assert clustering.association == "modality-aware"


def test_other_data_sets_differ_from_sysu_where_the_method_says() -> None:
    sysu = load_config("sysu_mm01")
    assert differing(sysu, load_config("regdb")) == {
        "data.name": ("sysu_mm01", "regdb"),
        "data.trial": (None, 1),
        "augmentation.jitter_infrared": (True, False),
        "clustering.eps": (0.6, 0.3),
        "batch.identities": (8, 4),
        "batch.infrared_identities": (None, 8),
        "batch.cameras": (True, False),
        "stage1.iterations": (200, 100),
        "stage2.iterations": (200, 100),
    }
    assert differing(sysu, load_config("llcm")) == {
        "data.name": ("sysu_mm01", "llcm"),
        "augmentation.jitter_infrared": (True, False),
    }
    changed = differing(sysu, load_config("emoji_xm"))
    tables = {name.partition(".")[0] for name in changed}
    assert {"data.name", "model.name", "model.weights"} <= changed.keys()
    assert "contrast" not in tables  # losses and memories are the method's everywhere
    assert not any(name.endswith((".lr", ".weight_decay", ".gamma")) for name in changed)


def test_every_file_is_listed() -> None:
    files = resources.files("mabm.train").joinpath("configs").iterdir()
    assert sorted(file.name for file in files) == sorted(f"{name}.toml" for name in CONFIGS)


def test_a_first_look_is_the_method_in_little_time() -> None:
    def pixels(config: Config) -> int:
        """Pixels that the encoder is trained on: two modalities, one of them in two views."""
        steps = config.stage1.epochs * config.stage1.iterations
        steps += 2 * config.stage2.epochs * config.stage2.iterations
        images = 3 * config.batch.identities * config.batch.instances
        return steps * images * config.data.height * config.data.width

    whole, first_look = load_config("emoji_xm"), load_config("emoji_xm_smoke")
    assert pixels(first_look) < pixels(whole) / 15
    assert first_look.data.held_out + (first_look.data.identities or 350) < 100
    assert first_look.data.held_out > 0  # and so test identities are not looked at
    assert first_look.stage1.epochs >= 1
    assert first_look.stage2.epochs >= 3  # a curve
    assert (first_look.run.evaluate_every, first_look.run.report) == (1, True)
    assert first_look.clustering == whole.clustering
    assert first_look.contrast == whole.contrast
    assert not any(name.endswith((".lr", ".gamma")) for name in differing(whole, first_look))


def test_overrides() -> None:
    config = load_config(
        "regdb",
        [
            "clustering.eps = 0.5",
            "clustering.association=naive",  # a bare word
            'model.name="timm:resnet18"',
            "model.weights=/some/where/else.pth",
            "data.trial=none",
            "run.compile=true",
            "stage1.lr=1",  # an integer will do for a number
            "stage1.epochs=3",
            "stage1.epochs=4",  # the later one wins
            "clustering.alone_k1=None",
        ],
    )
    assert differing(load_config("regdb"), config) == {
        "clustering.eps": (0.3, 0.5),
        "clustering.association": ("modality-aware", "naive"),
        "model.name": ("agw-resnet50", "timm:resnet18"),
        "model.weights": (None, "/some/where/else.pth"),
        "data.trial": (1, None),
        "run.compile": (False, True),
        "stage1.lr": (3.5e-4, 1.0),
        "stage1.epochs": (50, 4),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch.identities=0", r"batch\.identities must be in \[1, 65536\], got 0"),
        ("batch.identities=eight", r"batch\.identities must be a valid integer, got 'eight'"),
        ("batch.identities='8'", r"batch\.identities must be a valid integer, got '8'"),
        ("batch.identities=8.5", r"batch\.identities must be a valid integer.*, got 8\.5"),
        ("batch.identities=true", r"batch\.identities must be a valid integer, got True"),
        ("batch.identities=none", r"batch\.identities must be a valid integer, got None"),
        ("batch.micro_batches=3", r"batch\.micro_batches must divide .* = 128, got 3"),
        ("batch.sampling=odd", r"batch\.sampling must be 'even' or 'released', got 'odd'"),
        (
            "batch.normalization=both",
            r"batch\.normalization must be 'whole' or 'halves', got 'both'",
        ),
        ("batch.infrared_identities=0", r"batch\.infrared_identities must be in \[1, .*, got 0"),
        ("augmentation.erasing_fill=[0, 0]", r"augmentation\.erasing_fill.2 must be .*"),
        ("augmentation.erasing_fill=[0, 0, 256]", r"augmentation\.erasing_fill must be .* got 256"),
        ("run.compile=1", r"run\.compile must be a valid boolean, got 1"),
        ("run.seed=-1", r"run\.seed must be at least 0, got -1"),
        ("run.precision=half", r"run\.precision must be 'float32', .* or 'float16', got 'half'"),
        ("model.weights=5", r"model\.weights must be a valid string, got 5"),
        ("data.name=market", r"data\.name must be one of .*'regdb'.*, got 'market'"),
        ("data.test_resampling=box", r"data\.test_resampling must be 'bicubic' or .*, got 'box'"),
        ("data.trial=0", r"data\.trial must be in \[1, 1000000\], got 0"),
        ("stage2.lr=0", r"stage2\.lr must be above 0, got 0\.0"),
        ("stage2.lr=nan", r"stage2\.lr must be .*, got nan"),
        ("stage2.lr=inf", r"stage2\.lr must be .*, got inf"),
        ("stage2.lr=3.5e-4x", r"stage2\.lr must be a valid number, got '3\.5e-4x'"),
        ("clustering.eps=1.0", r"clustering\.eps must be .*, got 1\.0"),
        ("clustering.k1=1", r"clustering\.k1 must be in \[2, 1024\].*, got 1"),
        ("clustering.k2=31", r"clustering\.k2 must be in \[1, 30\].*, got 31"),
        ("clustering.alone_k1=0", r"clustering\.alone_k1 must be in \[1, 1024\], got 0"),
        ("clustering.alone_k1=5", r"clustering\.alone_k2 must be in \[1, 5\].*, got 6"),
        ("clustering.subset_ratio=0", r"clustering\.subset_ratio must be above 0, got 0\.0"),
        ("clustering.preset=best", r"clustering\.preset must be one of .*'bmil'.*, got 'best'"),
        ("clustering.half_list=third", r"clustering\.half_list must be .*, got 'third'"),
        ("clustering.association=all", r"clustering\.association must be 'off', .*, got 'all'"),
        ("contrast.momentum=2", r"contrast\.momentum must be in \[0, 1\], got 2"),
        ("augmentation.flip=-0.5", r"augmentation\.flip must be in \[0, 1\], got -0\.5"),
        (
            "batch.identites=8",
            r"batch\.identites must be one of identities, .*, instances, cameras",
        ),
        ("batsh.identities=8", r"batsh must be one of data, model, .*, run$"),
        ("batsh.identities=none", r"batsh must be one of data, model, .*, run$"),
        ("identities=8", r"an override must have the form table\.key=value, got 'identities=8'"),
        (
            "batch.identities",
            r"an override must have the form table\.key=value, got 'batch\.identities'",
        ),
        (".identities=8", r"an override must have the form table\.key=value"),
    ],
)
def test_a_mistake_is_named_with_its_contract_and_value(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("sysu_mm01", [override])


@pytest.mark.parametrize("fill", [5, None, "red", (1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_a_fill_has_three_colors(fill: Any) -> None:
    with pytest.raises(ValueError, match="erasing_fill must be red, green and blue, got"):
        AugmentationConfig(erasing_fill=fill)


def test_batch_sizes_by_modality() -> None:
    both = load_config("sysu_mm01", ["batch.identities=6"]).batch
    assert [both.identities_of(group) for group in (VISIBLE, INFRARED)] == [6, 6]
    regdb = load_config("regdb").batch
    sizes = [regdb.identities_of(group) * regdb.instances for group in (VISIBLE, INFRARED)]
    assert sizes == [64, 128]
    assert (
        load_config("regdb", ["batch.infrared_identities=none"]).batch.identities_of(INFRARED) == 4
    )
    with pytest.raises(ValueError, match=r"micro_batches must divide the infrared .* = 5, got 2"):
        load_config(
            "sysu_mm01",
            ["batch.infrared_identities=5", "batch.instances=1", "batch.micro_batches=2"],
        )
    with pytest.raises(ValueError, match=r"micro_batches must be 1 or even .* 'halves', got 3"):
        BatchConfig(instances=3, normalization="halves", micro_batches=3)
    with pytest.raises(ValueError, match=r"micro_batches must divide the visible .* = 5, got 2"):
        BatchConfig(identities=5, infrared_identities=8, instances=1, micro_batches=2)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"seed.*") as raised:
        load_config("sysu_mm01", ["run.seed=-1", "batch.instances=0", "data.foo=1"])
    for name in ("run.seed", "batch.instances", "data.foo"):
        assert f"{name} must" in str(raised.value)


def test_options_can_be_made_without_a_file() -> None:
    assert ClusteringConfig(k1=20, alone_k1=12, k2=4).k1_alone == 12
    with pytest.raises(ValueError, match=r"k2 must be in \[1, 20\].*, got 21"):
        ClusteringConfig(k1=20, k2=21)
    preset = ClusteringConfig(half_list="balanced").distance.preset
    assert (preset.name, preset.half_list) == ("bmil", "balanced")


@pytest.mark.parametrize("name", PRESETS)
def test_any_preset_trains(name: str, tmp_path: Path) -> None:
    config = load_config("sysu_mm01", [f"clustering.preset={name}"])
    assert config.clustering.distance.preset == PRESETS[name]
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert load_config(file) == config


def test_a_half_list_takes_the_place_of_that_of_the_preset() -> None:
    words = ["clustering.preset=modal_invariant", "clustering.half_list=balanced"]
    preset = load_config("sysu_mm01", words).clustering.distance.preset
    assert preset == dataclasses.replace(PRESETS["modal_invariant"], half_list="balanced")
    with pytest.raises(ValueError, match=r"clustering\.half_list must be None with lists=.*merged"):
        load_config("sysu_mm01", ["clustering.preset=ca_jaccard", "clustering.half_list=merged"])


def test_a_preset_keeps_its_own_lists() -> None:
    words = ["clustering.preset=ca_jaccard", "clustering.k1=20"]
    with pytest.raises(ValueError, match=r"clustering\.preset 'ca_jaccard' has .* 30, got 20"):
        load_config("sysu_mm01", words)


_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Shipped ones with some fields changed, of every kind there is."""
    overrides = [
        f"run.seed={draw(st.integers(0, 2**63 - 1))}",
        f"run.tensorboard={draw(st.sampled_from(['true', 'false']))}",
        f"stage1.lr={draw(st.floats(1e-9, 1e3))!r}",
        f"clustering.eps={draw(st.floats(0, 0.99))!r}",
        f"data.identities={draw(st.sampled_from(['none', '7']))}",
        f"contrast.memory={draw(st.sampled_from(['hybrid', 'mean', 'hard']))}",
    ]
    config = load_config(draw(st.sampled_from(CONFIGS)), overrides)
    text = draw(st.text(_CHARACTERS, min_size=1, max_size=20))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=text))


@given(configs())
def test_toml_and_back(config: Config) -> None:
    assert parse_config(to_tree(config)) == config
    assert parse_config(_toml_tree(config)) == config


def _toml_tree(config: Config) -> dict[str, Any]:
    from mabm.train import config_files as module

    return module._parse_toml(to_toml(config), "text")


def test_what_a_run_wrote_can_be_read(tmp_path: Path) -> None:
    config = load_config("regdb", ["run.seed=3", "data.trial=none", "clustering.alone_k1=12"])
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert load_config(file) == config
    assert load_config(str(file), ["run.seed=4"]).run.seed == 4


def test_a_file_changes_its_base(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "ours.toml").write_text('base = "regdb"\n[batch]\nidentities = 2\n')
    (tmp_path / "mine.toml").write_text('base = "lab/ours.toml"\n[run]\nseed = 5\n')
    config = load_config(tmp_path / "mine.toml", ["batch.instances=4"])
    assert differing(load_config("regdb"), config) == {
        "batch.identities": (4, 2),
        "batch.instances": (16, 4),
        "run.seed": (0, 5),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = 5", r"data must be .*, got 5"),
        ("[data]\nname = ", r"bad\.toml must be TOML"),
        ("[[data]]\nroot = 'a'", r"data must be .*, got \[\{'root': 'a'\}\]"),
        ("base = 5", r"base must be a shipped name or a TOML file, got 5"),
        ("base = 'bad.toml'", r"base must not form a cycle, got .*bad\.toml -> .*bad\.toml"),
        ("bases = 'sysu'", r"bases must be one of data, model"),
        ("[data]\nroot = 2020-01-01\nheight = [1]", r"data\.height must be .*, got \[1\]"),
    ],
)
def test_a_file_that_is_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(file)


def test_an_override_of_what_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("data = 5")
    with pytest.raises(ValueError, match="data must be a table, got 5"):
        load_config(file, ["data.height=1"])


def test_a_name_that_is_neither_shipped_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"one of sysu_mm01, .*, emoji_xm, .* or a TOML"):
        load_config("sisu-mm01")
    (tmp_path / "mine.toml").write_text('base = "no_such.toml"')
    with pytest.raises(FileNotFoundError, match=r"no_such\.toml"):
        load_config(tmp_path / "mine.toml")


STRANGE = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "0.5",
    "1e300",
    "1e9",
    str(2**63),
    str(2**70),
    "1" * 400,
    "1" * 5000,
    '""',
    r'"\u0000"',
    "[]",
    "[[]]",
    "{}",
    "true",
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "12:00:00",
    "\udcff",
    "[" * 500 + "]" * 500,
    "1\nmore = 2",
)


def refusal(override: str) -> ValueError | None:
    try:
        load_config("sysu_mm01", [override])
    except ValueError as error:
        return error
    return None


@pytest.mark.parametrize(
    "name",
    [
        f"{table.name}.{field.name}"
        for table in dataclasses.fields(Config)
        for field in dataclasses.fields(getattr(Config(), table.name))
    ],
)
def test_strange_values_of_every_field_are_taken_or_refused_in_words(name: str) -> None:
    for value in STRANGE:
        if (error := refusal(f"{name}={value}")) is not None:
            assert type(error) is ValueError
            assert "\n" not in str(error)
            assert len(str(error)) < 1000 or len(value) == 400  # an integer is shown whole


@pytest.mark.parametrize(
    "override",
    [
        f"run.seed={2**70}",
        f"run.seed={2**63}",
        "data.height=1000000000",
        "data.height=1e9",
        "data.width=4097",
        "data.workers=100000",
        "data.root=''",
        r'data.root="a\u0000"',
        "data.root=2020-01-01",
        "model.weights=''",
        "augmentation.padding=1000000000",
        f"clustering.min_samples={2**63}",
        "contrast.temperature=1e-45",
        "contrast.temperature=inf",
        "contrast.margin=1e300",
        "batch.instances=1000000000",
        "batch.evaluation=1000000000",
        "stage1.lr=1e300",
        "stage1.weight_decay=1e300",
        "stage2.iterations=1000000000",
        "run.evaluate_every=nan",
    ],
)
def test_absurd_values_are_refused_by_name(override: str) -> None:
    name = override.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{name} must be "):
        load_config("sysu_mm01", [override])


def test_an_override_holds_one_value() -> None:
    with pytest.raises(ValueError, match="an override must contain one value, got"):
        load_config("sysu_mm01", ["run.seed=1\nother = 2"])


def test_a_byte_order_mark_and_an_empty_file_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(codecs.BOM_UTF8 + b"[run]\nseed = 3\n")
    assert load_config(file).run.seed == 3
    file.write_bytes(b"")
    assert load_config(file) == Config()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[run]\nseed = 3\n".encode("utf-16"), "must be in UTF-8, got UTF-16"),
        ("[run]\nseed = 3\n".encode("utf-32"), "must be in UTF-8, got UTF-32"),
        ("[run]\nseed = 3\n".encode("utf-16-le"), "must be TOML: "),
        ('[data]\nroot = "é"\n'.encode("latin-1"), "must be in UTF-8: .*position 15"),
        (b"a = " + b"[" * 500 + b"]" * 500, "must be "),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "must be TOML: .*nested"),
        (b"[" + b"a." * 5000 + b"a]", "must "),
        (b"[run]\nseed = 1\nseed = 2\n", "must be TOML: "),
        (b"[run]\nseed = 1\0\n", "must be TOML: "),
        (b"[run]\nseed = " + b"1" * 5000, "must be TOML: "),
        (b"#" * (2**20 + 1), "must be TOML of at most 1048576 bytes, got 1048577"),
        (b"base = '../folder/bad.toml'", "base must not form a cycle"),
        (b"base = '" + b"./" * 50 + b"bad.toml'", "base must not form a cycle"),
    ],
)
def test_files_in_other_forms_are_refused_in_a_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(file)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # which would never be read to its end
    for source in (tmp_path, tmp_path / "pipe", "a\0b"):
        with pytest.raises(FileNotFoundError, match="or a TOML file"):
            load_config(source)
