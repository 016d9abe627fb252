"""One world for all scenarios: the chart installed, the operator at work, machines that boot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from scenario.stage import Operator, Stage, world_name

_numbers = itertools.count(1)

#: Files with the longest scenarios: begun first, so that no world works alone at the end.
LONG = ("test_config.py", "test_manners.py", "test_changes.py", "test_faults.py", "test_way.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files, long ones first; inside of a file nothing changes its place."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The world. Root and booted machines are required: nothing falls back."""
    with Stage(world_name("e2e")) as stage:
        stage.install_chart()
        yield stage


@pytest.fixture
def operator(stage: Stage) -> Operator:
    """The running operator; started again when a scenario ended it."""
    running = [operator for operator in stage.operators if operator.process.poll() is None]
    return running[-1] if running else stage.start_operator()


@pytest.fixture
def new_agent(stage: Stage, operator: Operator) -> Iterator[Callable[..., str]]:
    """Makes agents; all of them are deleted, and waited for, at the end of the scenario."""
    made: list[str] = []

    def make(**spec: object) -> str:
        name = f"agent-{next(_numbers)}"
        spec.setdefault("storage", {"deletionPolicy": "Delete"})
        stage.kube.create_agent(
            {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": {"name": name}, "spec": spec}
        )
        made.append(name)
        return name

    yield make
    stage.cloud.clear_faults()
    present = [name for name in made if stage.kube.agent(name)]
    if present and not [operator for operator in stage.operators if operator.process.poll() is None]:
        stage.start_operator()
    for name in present:
        stage.kube.delete_agent(name)
    for name in present:
        stage.wait_gone(name, seconds=90)
