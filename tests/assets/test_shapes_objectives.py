"""The world's own objectives on pictures whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from assets.shapes_world.objectives import FARTHEST, centredness, shapes_agreement, symmetry
from assets.shapes_world.world import SIZE, draw_scenes, make_dataset, render
from d3po_core.programmed.loading import load_objective
from tasks.config_reading import load_configuration
from tests.support.project import REPOSITORY


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, list]:
    return make_dataset(384, 5)


def test_agreement_is_high_for_the_right_prompt_and_low_for_another(drawn: tuple[np.ndarray, list]):
    pictures, scenes = drawn
    right = shapes_agreement(pictures, [scene.prompt for scene in scenes])
    others = [replace(scene, colour="red" if scene.colour != "red" else "blue").prompt for scene in scenes]
    assert right.mean() > 0.9
    assert shapes_agreement(pictures, others).mean() < 0.05


def test_centredness_is_minus_the_distance_to_the_middle(drawn: tuple[np.ndarray, list]):
    pictures, scenes = drawn
    true = np.array([-np.hypot(scene.centre[0] - SIZE / 2, scene.centre[1] - SIZE / 2) for scene in scenes])
    found = centredness(pictures, [scene.prompt for scene in scenes])
    triangle = np.array([scene.shape == "triangle" for scene in scenes])
    assert np.abs(found - true)[~triangle].max() < 0.5
    assert np.abs(found - true).max() < 0.15 * 21 + 0.1, "a triangle is drawn 0.15 of its radius, at most 21, too low"
    assert centredness(np.zeros((1, SIZE, SIZE, 3), np.uint8), [scenes[0].prompt]).tolist() == [-FARTHEST]


def test_symmetry_is_best_for_what_stands_in_the_middle():
    rng = np.random.default_rng(0)
    [scene] = draw_scenes(1, rng)
    upright = replace(scene, shape="circle", texture="plain", tilt=0.0)
    pictures = np.stack(
        [render(replace(upright, centre=(x, 40.0)), np.random.default_rng(1)) for x in (32.0, 34.0, 40.0)]
    )
    values = symmetry(pictures, [upright.prompt] * 3)
    assert values[0] == 0.0
    assert values[0] > values[1] > values[2]


def test_the_demo_declares_them(monkeypatch: pytest.MonkeyPatch, drawn: tuple[np.ndarray, list]):
    monkeypatch.chdir(REPOSITORY)
    pictures, scenes = drawn
    configuration = load_configuration(
        "configs/demo.yaml", ["--labels.objectives", '["shapes_agreement", "centredness", "symmetry"]']
    )
    for name in configuration.labels.objectives:
        values = load_objective(name, configuration.programmed[name])(pictures[:20], [s.prompt for s in scenes[:20]])
        assert len(set(values)) > 10
