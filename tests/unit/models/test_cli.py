"""The commands about models, as a person runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from models.cli import app
from models.variants import VARIANTS
from models.zoo import MODELS


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def test_list_shows_what_is_built_and_what_is_not(built: Path) -> None:
    """Name, tensors, metric, parity and size of the one; what to do about the other."""
    result = run("list", "--artifacts", built.parent)
    assert result.exit_code == 0
    for part in ("features FP32 [-1, 10]", "by pytorch", "r2", "e-0", "kB", "no: twinserve models build"):
        assert part in result.output


def test_every_variant_is_listed_as_json(built: Path) -> None:
    """Available or not; the default ones are, with what was measured when they were built."""
    result = run("list", "--json", "--artifacts", built.parent)
    assert result.exit_code == 0
    listed = {(item["model"], item["variant"]): item for item in json.loads(result.output)["variants"]}
    assert listed.keys() == {(model, variant) for model in MODELS for variant in VARIANTS}
    default = listed["simplenn", "savedmodel"]
    assert (default["available"], default["stack"], default["datatype"]) == (True, "tfserving", "FP32")
    assert default["bytes"] > 0
    assert 0 < default["parity_max_scaled"] < 1e-5
    assert listed["digits", "xla"]["reason"] == "not built; `twinserve models build digits` makes it"


def test_list_imports_no_framework(tmp_path: Path) -> None:
    """It answers at once, also where torch and tensorflow are not installed."""
    code = (
        "import sys; from models.cli import app; app(['list', '--artifacts', sys.argv[1]], standalone_mode=False);"
        "sys.exit(bool({'torch', 'tensorflow', 'keras', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)


def test_verify_runs_both_exports_again(built: Path) -> None:
    """Digests and parity of what is built."""
    result = run("verify", "simplenn", "--artifacts", built.parent)
    assert result.exit_code == 0
    assert "unchanged" in result.output
    assert "max |a-b|/(1+|b|)" in result.output


def test_verify_without_names_verifies_what_is_built(built: Path) -> None:
    """What nobody built is told, and no failure."""
    result = run("verify", "--artifacts", built.parent)
    assert result.exit_code == 0
    assert "unchanged" in result.output
    for name in MODELS.keys() - {"simplenn"}:
        assert f"not built; `twinserve models build {name}` builds it" in result.output


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "no model is built in"), (("digits",), "No such file or directory; `twinserve models build digits`")],
)
def test_verify_fails_where_there_is_nothing_of_what_was_asked_for(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    """Nothing at all, or not the model that was named."""
    result = run("verify", *names, "--artifacts", tmp_path)
    assert result.exit_code == 1
    assert said in result.output


def test_verify_names_what_is_spoiled(built: Path, tmp_path: Path) -> None:
    """A changed file fails the command, and says which."""
    folder = tmp_path / "models" / "simplenn"
    shutil.copytree(built / "simplenn", folder)
    (folder / "contract.json").write_text("{}")
    result = run("verify", "simplenn", "--artifacts", tmp_path)
    assert result.exit_code == 1
    assert "contract.json: changed since it was built" in result.output


def test_build_finds_what_is_built(built: Path) -> None:
    """A second build says so, step by step."""
    result = run("build", "simplenn", "--artifacts", built.parent, "--variants", "default")
    assert result.exit_code == 0
    assert result.output.count("built before") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "nope"), "unknown model 'nope'; there are simplenn, digits"),
        (("build", "--framework", "jax"), "'jax'; expected pytorch or keras"),
        (("build", "--variants", "onyx"), "unknown variant 'onyx'; there are default, all, torchscript"),
        (("verify", "nope"), "unknown model 'nope'"),
    ],
)
def test_a_wrong_argument_is_named(arguments: tuple[str, ...], said: str) -> None:
    """With what was expected instead; nothing is built."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
