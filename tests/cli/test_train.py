import pytest

from unot_fast.models import UNOT

SMALL = ("batch=4", "batches=1", "passes=1", "validation=4", "resolutions=[10,12]")
SMALL += ("model.width=8", "model.depth=1")
SETTINGS = [x for setting in SMALL for x in ("--set", setting)]


@pytest.fixture
def train(call, tmp_path):
    def run(*arguments):
        return call("train", "--preset", "tiny", *SETTINGS, "-o", tmp_path / "out", *arguments)

    return run


def test_train(train, tmp_path, monkeypatch):
    from unot_fast.cli import train as module

    monkeypatch.setattr(module, "_STAGE_PAIRS", 6)
    result = train("--rounds", 5, "--stages", "--set", "adversary=0.5")
    assert result.exit_code == 0, result.output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("checkpoint.pt", "log.csv", "losses.png", "measures.png", "model.safetensors"),
        *("stages.md", "stage_00.pt", "stage_20.pt", "stage_40.pt", "stage_60.pt"),
    }
    assert UNOT.from_pretrained(tmp_path / "out" / "model.safetensors").config.width == 8
    text = (tmp_path / "out" / "stages.md").read_text()
    assert "|  | 0% | 20% | 40% | 60% |" in text
    assert "6 pairs at 12 x 12, sqeuclidean, epsilon 0.01; after shares of 5 rounds" in text


def test_it_goes_on_with_the_same_settings_only(train):
    assert "samples in" in train("--rounds", 1).output
    assert "goes on after round 1" in train("--rounds", 2).output
    other = train("--rounds", 3, "--set", "learning_rate=0.1")
    assert other.exit_code == 1
    assert "other settings" in other.output


def test_a_budget(train):
    assert train("--budget", "0.3s").exit_code == 0


def test_errors_are_one_line(train):
    for arguments, message in (
        ((), "give either --budget or --rounds"),
        (("--budget", "5"), "'5' is no duration"),
        (("--rounds", 1, "--stages"), "--stages needs an adversary"),
        (("--rounds", 1, "--set", "speed=1"), "NAME must be one of"),
        (("--rounds", 1, "--set", "loss=hinge"), "loss must be one of"),
        (("--rounds", 1, "--set", "model.kind=cnn"), "kind must be"),
    ):
        result = train(*arguments)
        assert result.exit_code != 0
        assert message in result.output
