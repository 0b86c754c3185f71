import pytest
import torch

from discriminator import Discriminator
from engine.errors import UserError
from engine.weights import export_model
from explorer.session import DRAWN_OF_EACH, load_session
from generator import Generator
from image_sets import shapes

NAMES = list(shapes.CLASS_NAMES)
NOTHING = {"without G": None, "with G": None, "generator": None}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """put(**metadata of each file): exports where two trainings would have left them."""
    monkeypatch.chdir(tmp_path)

    def put(classifier=None, critic=None, generator=None):
        for run, file, model, about in (
            ("baseline", "discriminator", Discriminator(width=4), classifier),
            ("gan", "discriminator", Discriminator(width=4), critic),
            ("gan", "generator", Generator(width=4, latent_dim=20), generator),
        ):
            if about is not None:
                path = tmp_path / "output" / run / f"{file}.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                export_model(model, path, about)

    return put


def session(given=NOTHING, data_dir="nowhere"):
    return load_session(given, torch.device("cpu"), data_dir)


def test_ones_own_runs_and_their_test_images(runs):
    shapes_set = {"dataset": "shapes", "class_names": NAMES}
    runs(shapes_set, shapes_set, shapes_set)
    found = session()
    assert [network.name for network in found.networks] == ["without G", "with G"]
    assert found.class_names == NAMES
    assert (len(found.images), found.are_drawn) == (2000, False)
    assert found.network("with G").name == "with G"
    assert found.network("nobody").name == "without G"


def test_without_test_images_the_generator_draws_some(runs):
    cifar = {"dataset": "cifar10", "class_names": NAMES}
    runs(cifar, cifar, cifar)
    found = session()
    assert found.are_drawn
    assert found.images.labels.bincount().tolist() == [DRAWN_OF_EACH] * 10


def test_with_a_classifier_alone_there_is_nothing_to_draw(runs, capsys):
    runs(classifier={"dataset": "cifar10"})
    found = session()
    assert (found.generator, found.images) == (None, None)
    assert found.class_names == [str(k) for k in range(10)]
    assert "train_gan.py" in capsys.readouterr().out


def test_ones_own_networks_take_no_published_generator(runs, published):
    runs(classifier={"dataset": "shapes", "class_names": NAMES})
    (published / "gan").mkdir()
    path = published / "gan" / "generator.safetensors"
    export_model(Generator(width=4, latent_dim=20), path, {"class_names": NAMES[::-1]})
    assert session().generator is None


def test_networks_that_know_other_classes_are_refused(runs):
    mine, other = {"dataset": "cifar10", "class_names": NAMES}, NAMES[::-1]
    runs(mine, mine, {"dataset": "cifar10", "class_names": other})
    with pytest.raises(UserError, match="different classes") as error:
        session()
    assert ", ".join(NAMES) in str(error.value)
    assert ", ".join(other) in str(error.value)


def test_networks_of_two_sets_are_refused(runs):
    runs({"dataset": "cifar10"}, {"dataset": "shapes"})
    with pytest.raises(UserError, match=r"different sets \(cifar10, shapes\)"):
        session()


def test_a_generator_in_the_place_of_a_discriminator(runs, tmp_path):
    runs(generator={})
    given = NOTHING | {"without G": tmp_path / "output" / "gan" / "generator.safetensors"}
    with pytest.raises(UserError, match="holds a generator"):
        session(given)


def test_both_networks_judge(runs):
    runs({"dataset": "shapes"}, {"dataset": "shapes"})
    found = session()
    levels = found.images.images[:3].float()
    said = found.judge(levels)
    for network in found.networks:
        scores, logits = network.model(levels / 127.5 - 1)
        torch.testing.assert_close(said[network.name][0], scores)
        torch.testing.assert_close(said[network.name][1], logits.softmax(1))
    score, shares = found.judge_one(levels[1])["with G"]
    assert score == pytest.approx(said["with G"][0][1].item(), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(shares, said["with G"][1][1])
