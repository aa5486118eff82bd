"""Recipes: settings that fit their networks, command lines."""

import importlib
import json
import math
import shlex
import subprocess

import pytest
from click.testing import CliRunner
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from recipes import cage_animal, multi_node, run, scale_up, wikiart
from sg3.checkpoints.registry import REGISTRY
from sg3.cli.dataset import dataset
from sg3.networks import build_network
from sg3.training.architecture import discriminator_kwargs, generator_kwargs

#: module → resolution of its data, number of processes
RECIPES = {
    "wikiart": (1024, 8),
    "metfaces_transfer": (1024, 8),
    "afhq": (512, 8),
    "ffhq_unaligned": (1024, 8),
    "scale_up": (1024, 8),
    "multi_node": (1024, 16),
    "minifaces.generator.train": (64, 2),
}
COMMANDS = {
    "wikiart": ("wikiart", "wikiart-1024.zip"),
    "metfaces_transfer": ("metfaces/images", "metfaces-1024.zip"),
    "afhq": ("afhqv2/train", "afhqv2-512.zip"),
    "ffhq_unaligned": ("ffhqu-crops", "ffhqu-1024.zip"),
}


def module_of(name):
    return importlib.import_module(f"recipes.{name}")


def settings():
    for name, (resolution, processes) in RECIPES.items():
        for variant, build in module_of(name).VARIANTS.items():
            size = 256 if variant == "256" else resolution
            yield pytest.param(build, size, processes, id=f"{name}-{variant}")


def call(name, *args):
    module = module_of(name)
    return CliRunner().invoke(run.recipe_command(module.__doc__, module.VARIANTS), args)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 9, 9)).save(folder / f"{i}.png")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("build, resolution, processes", list(settings()))
def test_settings_are_complete_and_the_networks_build(build, resolution, processes):
    config = build("data.zip", "runs").resolved(resolution, processes)
    assert config.gamma is not None
    assert config.resume is None or config.resume in REGISTRY
    shape = (3, resolution, resolution)
    with FakeTensorMode():  # shapes only: these networks are large
        G = build_network(*generator_kwargs(config, shape, 0))
        D = build_network("discriminator", discriminator_kwargs(config, shape, 0))
    assert G.img_resolution == D.img_resolution == resolution


@pytest.mark.parametrize("name", RECIPES)
def test_changes_by_name(name):
    config = module_of(name).config
    assert config("d", "o", gamma=3, seed=7).seed == 7
    assert config("d", "o", gamma=3).gamma == 3
    with pytest.raises(
        ValueError, match="gama: unknown setting of TrainConfig; did you mean 'gamma'"
    ):
        config("d", "o", gama=3)
    with pytest.raises(ValueError, match="kimg: got -1"):
        config("d", "o", kimg=-1)


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_documents_commands_hardware_duration_and_result(name):
    module = module_of(name)
    for part in ("Commands", "Hardware", "Duration", "Result"):
        assert f"\n{part}:" in module.__doc__ or f"\n{part}, " in module.__doc__, part
    assert f"-m recipes.{name}" in module.__doc__ and "torchrun" in module.__doc__
    assert max(map(len, module.__doc__.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_dataset_command_is_documented_and_valid(name):
    module = module_of(name)
    command = module.dataset_command(*COMMANDS[name])
    documented = " ".join(module.__doc__.replace("\\\n", " ").split())
    assert shlex.join(command) in documented
    known = {option for parameter in dataset.params for option in parameter.opts}
    wanted = {word for word in command if word.startswith("--")}
    assert wanted <= known


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_prints_json_without_data(name):
    result = call(name, "--data", "missing.zip", "--outdir", "runs", "--dry-run")
    assert result.exit_code == 0, result.output
    options = json.loads(result.output)
    assert options["data"] == "missing.zip" and options["batch"] >= 16


def test_dry_run_with_data_describes_the_run(images, tmp_path):
    where = ["--data", images, "--outdir", str(tmp_path / "runs")]
    result = call(
        "minifaces.generator.train", *where, "-n", "--set", "resume=", "--set", "cbase=512"
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert record["G"]["channel_base"] == 512 and record["options"]["resume"] is None
    assert record["data"]["images"] == 4 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("gama=1", "did you mean gamma"),
        ("data=x.zip", "got 'data'"),
        ("gamma", "expected NAME=VALUE"),
        ("gamma=-1", "gamma"),
        ("gamma=much", "gamma"),
        ("batch=", "batch needs a value"),
        ("cfg=stylegan4", "cfg"),
    ],
)
def test_bad_settings_are_one_line(text, message):
    result = call("wikiart", "--data", "no.zip", "--outdir", "runs", "-n", "--set", text)
    assert result.exit_code == 2
    assert message in result.output and len(result.output.strip().splitlines()) == 1


def test_settings_are_written_as_for_sg3_train():
    texts = ["gamma=16", "mirror=no", "grid=4x2", "batch-gpu=auto", "metrics=none", "resume="]
    assert run.parse_changes(texts) == {
        "gamma": 16, "mirror": False, "grid": (4, 2), "batch_gpu": "auto", "metrics": (),
        "resume": None,
    }  # fmt: skip


def test_missing_data_are_one_line(tmp_path):
    result = call("afhq", "--data", str(tmp_path / "no.zip"), "--outdir", str(tmp_path))
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1


TINY = [
    "cbase=64", "cmax=8", "dcbase=64", "dcmax=8", "z_dim=8", "w_dim=8", "num_layers=4",
    "margin_size=4", "map_depth=1", "batch=4", "mbstd_group=2", "grid=2x2", "kimg=0.004",
    "workers=0", "threads=1", "resume=", "freeze_mapping=no",
]  # fmt: skip


def test_a_recipe_trains_and_resumes(images, tmp_path):
    changes = [word for text in TINY for word in ("--set", text)]
    args = ["--data", images, "--outdir", str(tmp_path), *changes, "--resume", "latest"]
    args += ["--variant", "stylegan2"]
    first = call("minifaces.generator.train", *args)
    assert first.exit_code == 0, first.output
    assert "starting from scratch" in first.output
    again = call("minifaces.generator.train", *args, "--set", "kimg=0.008")
    assert "resuming at 0.0 kimg" in again.output and again.exit_code == 0
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["00000"]


def test_a_run_that_does_not_exist_starts_from_the_recipes_network(images, tmp_path):
    config = module_of("minifaces.generator.train").config(images, str(tmp_path))
    assert run.continued(config).resume == "latest,mini-faces"


def test_gamma_sweep_differs_in_gamma_alone():
    sweep = wikiart.gamma_sweep("d", "o", seed=3)
    assert list(sweep) == [8, 16, 32, 64] == [c.gamma for c in sweep.values()]
    full = wikiart.config("d", "o")
    assert len({(c.kimg, c.seed, c.resume, c.batch) for c in sweep.values()}) == 1
    assert sweep[8].kimg < full.kimg / 10 and full.gamma == 32
    assert full.resume == "stylegan3-t-ffhq-1024" and full.mirror and full.aug == "ada"


def test_gamma_of_metfaces_and_afhq_follows_the_configuration():
    metfaces, afhq = module_of("metfaces_transfer"), module_of("afhq")
    unaligned = metfaces.VARIANTS["unaligned"]("d", "o", cfg="stylegan3-r")
    assert (unaligned.gamma, unaligned.resume) == (6.6, "stylegan3-r-ffhqu-1024")
    assert metfaces.config("d", "o", cfg="stylegan2").resume in REGISTRY
    assert metfaces.config("d", "o", cfg="stylegan2").gamma == 5
    assert afhq.config("d", "o", cfg="stylegan3-r").gamma == 16.4
    with pytest.raises(ValueError, match="cfg: got"):
        afhq.config("d", "o", cfg="stylegan4")


@pytest.mark.slow
def test_scale_up_memory_grows_with_the_batch():
    pytest.importorskip("sg3.training.plan")
    config = scale_up.config("d", "o", cbase=256, cmax=16, num_layers=4, batch=8)
    found = scale_up.memory(config, num_gpus=1, resolution=64)
    assert list(found) == [4, 8] and 0 < found[4] < found[8] < 1
    with pytest.raises(ValueError, match="H200"):
        scale_up.memory(config, card="Voodoo 2")


def test_slurm_script(tmp_path):
    text = multi_node.slurm_script("/shared/my faces.zip", "/shared/runs", nodes=3, partition="gpu")
    for part in [
        "#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8",
        "#SBATCH --partition=gpu", "--rdzv-backend=c10d", "--rdzv-endpoint=", "--max-restarts=3",
        "--nproc-per-node=8", "-m recipes.multi_node", "--data '/shared/my faces.zip'",
        "--resume latest", "SLURM_JOB_NODELIST",
    ]:  # fmt: skip
        assert part in text
    header = text.splitlines()
    assert all(line.startswith("#") for line in header[: header.index("set -euo pipefail")])
    script = tmp_path / "train.slurm"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    for wrong in ({"nodes": 0}, {"recipe": "x; rm"}, {"partition": "a b"}, {"max_restarts": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            multi_node.slurm_script("d", "o", **wrong)


def test_kubernetes_manifest():
    import yaml

    data = "s3://bucket/my shards-{000..063}.tar"
    text = multi_node.kubernetes_manifest(data, "/runs", "registry/sg3:1", "runs", nodes=3)
    service, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert service["metadata"]["name"] == pod["subdomain"] == "sg3"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
    assert "--nnodes=3" in command and "--rdzv-endpoint=sg3-0.sg3:29400" in command
    assert command[command.index("--data") + 1] == data
    for wrong in ({"nodes": 0}, {"name": "Two words"}, {"claim": ""}, {"recipe": "a b"}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: got"):
            multi_node.kubernetes_manifest(**dict(
                data="d", outdir="o", image="i", claim="c"
            ) | wrong)  # fmt: skip


def test_multi_node_keeps_gamma_times_batch():
    for nodes in (1, 2, 4):
        config = multi_node.config("d", "o", nodes=nodes)
        assert config.batch == 32 * nodes and math.isclose(config.gamma * config.batch, 32.8 * 32)


def test_cage_animal_names_a_network_and_encoders_that_exist():
    chosen = cage_animal.settings()
    assert (chosen["source"], chosen["target"]) == ("animal", "Nicolas Cage")
    assert chosen["network"] in REGISTRY
    known = {param.name for param in cage_animal.adapt.params}
    assert chosen.keys() <= known and cage_animal.settings("images", "photos").keys() <= known


@pytest.mark.slow
def test_cage_animal_runs_on_another_network(tmp_path, monkeypatch):
    monkeypatch.setattr(
        cage_animal,
        "COMMON",
        cage_animal.COMMON | {"network": "mini-faces", "clip": ("mini-a", "mini-b"), "batch": 1},
    )
    arguments = ["--steps", "1", "--outdir", str(tmp_path / "cage")]
    result = CliRunner().invoke(cage_animal.command, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cage" / "delta.safetensors").exists()
    result = CliRunner().invoke(cage_animal.command, ["--variant", "images"])
    assert (
        result.exit_code == 2
        and "--target-images: got None, expected a folder of photos" in result.output
    )
