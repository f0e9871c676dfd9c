"""The page's own modules, run on Node: physics, scenarios, links and figures."""

import json
import subprocess
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from scipy.stats import binomtest

from models.bundle import Bundle
from models.manifest import Plant
from service.rest.page.routes import STATIC
from tests.support.programs import node
from training.envs.plant import step, steps_of
from training.evaluation.robustness import PUSH_INTERVAL, SCENARIOS

STEPS = 10_000
HEAVY = Plant(pole_mass=0.3, force=20.0, step_seconds=0.01, friction=0.5)
# force N, cart's mass kg, pole's mass kg, half length m, gravity m/s², step time s
PLANTS = {
    "nominal": (10.0, 1.0, 0.1, 0.5, 9.8, 0.02),
    "weak and long": (3.0, 1.0, 0.4, 0.95, 9.8, 0.02),
    "strong and short": (19.0, 0.6, 0.02, 0.08, 9.8, 0.01),
    "heavy cart": (12.5, 4.0, 1.0, 0.7, 9.8, 0.025),
    "on the moon": (7.0, 1.3, 0.25, 0.33, 1.62, 0.04),
}
RUN = """
const { step, hasFallen } = await import(input.module);
return input.runs.map(({ plant, starts, actions, integrator, each }) => {
  let next = 0;
  let state = starts[next++];
  return actions.map((action) => {
    state = step(state, action === 1 ? plant.force : -plant.force, plant, integrator);
    const result = [...state, hasFallen(state)];
    if (each || hasFallen(state)) state = starts[next++];
    return result;
  });
});
"""


def run(code: str, module: str, **values: Any) -> Any:
    """Run a function's body on Node, with a module of the page, and return what it returns."""
    program = f"""
    import {{ readFileSync }} from "node:fs";
    const input = JSON.parse(readFileSync(0, "utf8"));
    const main = async () => {{ {code} }};
    console.log(JSON.stringify(await main()));
    """
    result = subprocess.run(
        [node(), "--input-type=module", "-e", program],
        input=json.dumps(values | {"module": (STATIC / module).as_uri()}),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def gymnasium(plant: tuple[float, ...], integrator: str = "euler") -> CartPoleEnv:
    env = CartPoleEnv()
    env.force_mag, env.masscart, env.masspole, env.length, env.gravity, env.tau = plant
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length
    env.kinematics_integrator = integrator
    return env


def as_object(plant: tuple[float, ...]) -> dict[str, float]:
    names = ("force", "cartMass", "poleMass", "halfLength", "gravity", "stepTime")
    return dict(zip(names, plant, strict=True)) | {"friction": 0.0}


@pytest.mark.parametrize("name", PLANTS)
def test_the_physics_equals_gymnasiums_over_10_000_steps_of_the_same_actions(name: str) -> None:
    """Episode after episode, each from the same first state as Gymnasium's."""
    rng = np.random.default_rng(7)
    starts = rng.uniform(-0.05, 0.05, (STEPS + 1, 4)).tolist()
    actions = rng.integers(0, 2, STEPS).tolist()
    env = gymnasium(PLANTS[name])
    expected, episode = [], 0
    env.state = np.array(starts[episode])
    for action in actions:
        _, _, terminated, _, _ = env.step(action)  # type: ignore[no-untyped-call] # Gymnasium's
        assert env.state is not None
        expected.append([*env.state, terminated])
        if terminated:
            episode += 1
            env.state, env.steps_beyond_terminated = np.array(starts[episode]), None

    values = {"plant": as_object(PLANTS[name]), "starts": starts, "actions": actions}
    (result,) = run(RUN, "physics.js", runs=[values | {"integrator": "euler"}])
    assert episode > 20
    assert [row[4] for row in result] == [row[4] for row in expected]
    np.testing.assert_allclose(
        [row[:4] for row in result], [row[:4] for row in expected], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("integrator", ["euler", "semi-implicit"])
def test_a_step_from_anywhere_equals_gymnasiums(integrator: str) -> None:
    rng = np.random.default_rng(8)
    starts = (rng.standard_normal((STEPS + 1, 4)) * (2, 3, 2, 5)).tolist()
    actions = rng.integers(0, 2, STEPS).tolist()
    for plant in PLANTS.values():
        env = gymnasium(plant, integrator)
        expected = []
        for start, action in zip(starts, actions, strict=False):
            env.state, env.steps_beyond_terminated = np.array(start), None
            env.step(action)  # type: ignore[no-untyped-call] # Gymnasium's
            assert env.state is not None
            expected.append(env.state.tolist())
        values = {"plant": as_object(plant), "starts": starts, "actions": actions}
        (result,) = run(RUN, "physics.js", runs=[values | {"integrator": integrator, "each": True}])
        scale = np.abs(expected).max(axis=1, keepdims=True)
        assert np.max(np.abs(np.array(result)[:, :4] - expected) / scale) < 1e-12


def test_a_step_with_friction_equals_trainings() -> None:
    rng = np.random.default_rng(9)
    starts = (rng.standard_normal((STEPS + 1, 4)) * (2, 3, 0.2, 3)).tolist()
    actions = rng.integers(0, 2, STEPS).tolist()
    states = np.array(starts[:-1]).T
    expected = step(HEAVY, states, np.array(actions) == 1).T
    code = "return (await import(input.module)).plantOf(input.setting);"
    plant = run(code, "scenarios.js", setting=base_of(HEAVY))
    values = {"plant": plant, "starts": starts, "actions": actions, "each": True}
    (result,) = run(RUN, "physics.js", runs=[values | {"integrator": "euler"}])
    np.testing.assert_allclose(np.array(result)[:, :4], expected, rtol=1e-9, atol=1e-12)


def base_of(plant: Plant) -> Any:
    """The setting that the page begins with, for a policy of this plant."""
    code = "return (await import(input.module)).baseOf({ plant: input.plant });"
    return run(code, "scenarios.js", plant=plant.model_dump())


def test_the_page_begins_with_the_plant_of_the_manifest(committed: Bundle) -> None:
    default = run("return (await import(input.module)).DEFAULT_SETTING;", "scenarios.js")
    assert base_of(committed.manifest.environment.plant) == default
    assert run("return (await import(input.module)).baseOf({});", "scenarios.js") == default
    changed = {key: value for key, value in base_of(HEAVY).items() if value != default[key]}
    assert changed == {"poleMass": 0.3, "stepTime": 10, "friction": 0.5, "force": 20}


def test_presets_are_scaled_to_the_plant_as_the_evaluation_scales_them() -> None:
    code = """
    const { settingOf, SCENARIOS, stepsOf, pushIntervalOf } = await import(input.module);
    const seeds = Array.from({ length: 300 }, (_, seed) => seed);
    return {
      drawn: seeds.map((seed) => settingOf("extreme", seed, input.base)),
      steps: SCENARIOS.map((each) => stepsOf(each, input.base)),
      interval: pushIntervalOf(input.base),
    };
    """
    result = run(code, "scenarios.js", base=base_of(HEAVY))
    extreme = next(each for each in SCENARIOS if each.name == "extreme")
    evaluated = extreme.draw(np.random.default_rng(0), 3_000, HEAVY)
    for name, values in (("force", evaluated.force), ("poleMass", evaluated.pole_mass)):
        shown = [each[name] for each in result["drawn"]]
        assert min(shown) == pytest.approx(values.min(), rel=0.2)
        assert max(shown) == pytest.approx(values.max(), rel=0.05)
    assert result["steps"] == [each.steps_on(HEAVY) for each in SCENARIOS[:-1]]
    assert result["interval"] == steps_of(HEAVY, PUSH_INTERVAL) == 100


def test_the_presets_are_the_scenarios_of_the_manifest(committed: Bundle) -> None:
    scenarios = run("return (await import(input.module)).SCENARIOS;", "scenarios.js")
    # The starts of `recovery` are in a file that no page has.
    evaluated = [
        each for each in committed.manifest.robustness.scenarios if each.name != "recovery"
    ]
    assert [(each["name"], each["steps"]) for each in scenarios] == [
        (each.name, each.steps) for each in evaluated
    ]


def test_the_presets_draw_from_the_evaluations_ranges() -> None:
    scenarios = run("return (await import(input.module)).SCENARIOS;", "scenarios.js")
    for shown, evaluated in zip(scenarios, SCENARIOS[:-1], strict=True):
        for name, field in (
            ("force", "force"),
            ("halfLength", "half_length"),
            ("poleMass", "pole_mass"),
        ):
            ranges = [list(each) for each in getattr(evaluated, field)]
            default = {"force": 10.0, "halfLength": 0.5, "poleMass": 0.1}[name]
            assert shown.get(name, [[default, default]]) == ranges
        assert shown.get("noise", 0) == evaluated.noise
        assert shown.get("delay", 0) == evaluated.delay
        assert shown.get("push", 0) == evaluated.push
        assert shown.get("dropped", 0) == evaluated.dropped
        assert shown.get("start", 0.05) == evaluated.start


def test_a_link_restores_every_setting_and_a_scenario_draws_the_same_again() -> None:
    code = """
    const { SCENARIOS, DEFAULT_SETTING, settingOf, toFragment, fromFragment } =
      await import(input.module);
    const settings = [
      ...SCENARIOS.map(({ name }, index) => settingOf(name, index + 2)),
      { ...DEFAULT_SETTING },
      { ...DEFAULT_SETTING, noise: 0.03, dropped: 0.25, stepTime: 31, start: [0.1, -1, 0.02, 0] },
      { ...settingOf("extreme", 9), noise: 0.05 },
    ];
    return settings.map((setting) => {
      const fragment = toFragment(setting);
      return [setting, fromFragment("#" + fragment), fragment];
    });
    """
    restored = run(code, "scenarios.js")
    for setting, again, _ in restored:
        assert again == setting
    assert restored[-3][2] == ""
    assert restored[3][2] == "preset=extreme&seed=5"


@pytest.mark.parametrize(
    "fragment",
    [
        "#noise=abc&force=Infinity&delay=",
        "#preset=nothing&seed=x",
        "#start=1,2,3&push=NaN",
        "#<script>",
    ],
)
def test_a_link_that_holds_nonsense_is_the_default(fragment: str) -> None:
    code = (
        "const { fromFragment, DEFAULT_SETTING } = await import(input.module);"
        "return [fromFragment(input.fragment), DEFAULT_SETTING];"
    )
    restored, default = run(code, "scenarios.js", fragment=fragment)
    assert restored == default


def test_a_link_cannot_ask_for_what_no_slider_has() -> None:
    fragment = "force=1e9&stepTime=0&delay=2.7&halfLength=-3"
    code = "return (await import(input.module)).fromFragment(input.fragment);"
    setting = run(code, "scenarios.js", fragment=fragment)
    assert (setting["force"], setting["stepTime"]) == (30, 5)
    assert (setting["delay"], setting["halfLength"]) == (2, 0.05)


def test_the_intervals_are_wilsons() -> None:
    counts = [(400, 400), (392, 400), (397, 400), (0, 10), (99, 100)]
    code = """
    const { wilson } = await import(input.module);
    return input.counts.map((each) => wilson(...each));
    """
    for (successes, episodes), (low, high) in zip(
        counts, run(code, "statistics.js", counts=counts), strict=True
    ):
        expected = binomtest(successes, episodes).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_run_under_delay_and_pushes_is_the_evaluations() -> None:
    """An action's force acts `delay` steps later, and each 50 steps there is a push."""
    code = """
    const { Simulation } = await import(input.module);
    const simulation = new Simulation(input.setting);
    const first = simulation.decided;
    const log = [];
    for (let step = 0; step < 120; step += 1) {
      const before = simulation.state[1];
      simulation.move(step % 2);
      log.push([simulation.applied, simulation.state[1] - before]);
      simulation.state = [0, 0, 0, 0];
      simulation.fallen = false;
    }
    return [first, log];
    """
    setting = run(
        "return { ...(await import(input.module)).DEFAULT_SETTING, delay: 3, push: 1 };",
        "scenarios.js",
    )
    first, log = run(code, "simulation.js", setting=setting)
    assert [applied for applied, _ in log[:3]] == first[2::-1]
    assert [applied for applied, _ in log[3:]] == [step % 2 for step in range(117)]
    pushed = [step for step, (_, change) in enumerate(log) if abs(abs(change) - 0.195) > 0.01]
    assert set(pushed) <= {49, 99}
    assert pushed
