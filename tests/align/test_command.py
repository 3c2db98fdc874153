"""The command over real ranks: the sentence, the exit code, and what it keeps."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.align.capture import capture
from neoxlib.align.reader import read_capture
from neoxlib.errors import SettingsError
from tests.support.align_runs import save_model
from tests.support.sessions import open_session


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


def test_ranks_of_their_own_write_one_capture_and_the_command_judges_it(
    model: Path, tmp_path: Path
):
    with open_session(model, tmp_path / "logs") as session:
        rows = [[60, 61, 62], [70]]
        folder = capture(session, tmp_path / "capture", rows, [[5], [6]])
        found = session.activations(rows, ["gpt_neox.layers.1"])
        with pytest.raises(SettingsError, match="is no step"):
            session.activations(rows, ["gpt_neox.layers.9"])
        assert len(session.generate([[60]], max_new_tokens=1)) == 1  # it goes on
    whole = read_capture(folder).part("layer001")[("gpt_neox.layers.1", 0, 1)]
    assert found[1]["gpt_neox.layers.1"].tolist() == whole[1, 2:].tolist()
    said = CliRunner().invoke(cli, ["align", "--target", str(folder)])
    assert said.exit_code == 0 and said.output.startswith("every step that was seen is right")
    other = save_model(tmp_path / "other", hidden_act="relu")
    asked = ["align", "--target", str(folder), "--reference", str(other)]
    said = CliRunner().invoke(cli, [*asked, "--output", str(tmp_path / "out")])
    assert said.exit_code == 3
    assert said.output.startswith("layer 0, every rank, prefill: mlp.activation ")
    assert "\nFAIL logits: KL divergence: " in said.output
    assert "FAIL every step is what the checkpoint says" not in said.output  # said already
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"steps.csv", "three_way.csv", "reproduction"}
    asked = ["align", "--target", str(folder), "--reference", "world_size=1"]
    said = CliRunner().invoke(cli, asked)
    assert said.exit_code == 0 and "Against the same model on 1 rank: every step " in said.output


def test_two_real_ranks_are_the_same_to_the_bit_twice(model: Path, tmp_path: Path):
    asked = ["align", str(model), "--world-size", "2", "--device", "cpu", "--prompt", "abc"]
    kept = ["--output", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # see open_session
        said = CliRunner().invoke(cli, [*asked, "--reference", "same", *kept])
    assert said.exit_code == 0 and " of 2 ranks and 3 passes is the same" in said.output
    assert (tmp_path / "out/reference/capture.json").is_file()


def test_what_the_command_cannot_use_is_one_message(model: Path, tmp_path: Path):
    said = CliRunner().invoke(cli, ["align", "--output", str(model)])
    assert said.exit_code == 1 and "is not empty; name a new folder" in said.stderr
    said = CliRunner().invoke(cli, ["align", "--target", str(tmp_path)])
    assert said.exit_code == 1 and "is no capture" in said.stderr
    said = CliRunner().invoke(cli, ["align", "--reference", "floot32"])
    assert said.exit_code == 1 and "did you mean 'float32'?" in said.stderr
    assert CliRunner().invoke(cli, ["align", "--nothing"]).exit_code == 2
    assert "--decode-steps" in CliRunner().invoke(cli, ["align", "--help"]).output
