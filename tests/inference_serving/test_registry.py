"""Specification of registries: classes by name, built in, registered, or a user's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inference_serving.gate_function import EXPERT_ROUTINGS
from inference_serving.policies.base import POLICIES
from inference_serving.policies.registry import PREFILL_POLICIES
from inference_serving.registry import CustomRegistry, Registry, UnknownNameError
from inference_serving.router import ROUTERS

ALL = {"policy": POLICIES, "prefill policy": PREFILL_POLICIES, "router": ROUTERS, "routing": EXPERT_ROUTINGS}
THEIR_OWN = """
class Speaker:
    def speak(self): ...

class Silent: ...
"""


@pytest.fixture
def registry(tmp_path, monkeypatch) -> CustomRegistry:
    """One built-in class; users' modules lie in the test's folder."""
    (tmp_path / "their_own.py").write_text(THEIR_OWN)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_own", raising=False)
    return CustomRegistry("a speaker", "docs/speakers.md", ("speak",), {"built-in": "their_own:Speaker"})


def test_a_built_in_class_is_imported_when_it_is_first_asked_for(registry):
    assert registry.names() == ["CUSTOM", "built-in"]
    assert "their_own" not in sys.modules
    assert registry["built-in"] is registry.find("built-in") is sys.modules["their_own"].Speaker


def test_a_registered_class_is_found_by_its_name(registry):
    @registry.register("mine")
    class Mine:
        """A class of this test."""

    assert registry.find("mine") is Mine
    assert "mine" in registry
    assert "theirs" not in registry


def test_a_users_class_is_found_by_its_module(registry):
    assert registry.find("their_own:Speaker").__name__ == "Speaker"


def test_custom_names_a_class_by_an_option_and_leaves_the_others(registry):
    args = {"class": "their_own:Speaker", "loud": "1"}
    assert registry.unwrap("CUSTOM", args) == ("their_own:Speaker", {"loud": "1"})
    assert registry.unwrap("built-in", args) == ("built-in", args)
    with pytest.raises(ValueError, match=r"^CUSTOM needs class=module:Class$"):
        registry.unwrap("CUSTOM", {"loud": "1"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "'none' is unknown; use one of other, CUSTOM, built-in, or your own by module:Class"),
        ("their_own:Silent", "'their_own:Silent': not a speaker; see docs/speakers.md"),
        ("their_own:Nobody", "'their_own:Nobody': module their_own has no Nobody"),
        ("nowhere:It", "'nowhere:It': cannot import nowhere: No module named 'nowhere'"),
        ("broken:It", "'broken:It': cannot import broken: division by zero"),
    ],
)
def test_what_cannot_be_found_is_an_error_that_says_why(registry, name, message):
    registry._other_names = lambda: ["other"]
    with pytest.raises(UnknownNameError) as caught:
        registry.find(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ALL)
def test_every_built_in_class_is_what_its_registry_asks_of_a_users_own(kind):
    known: Registry = ALL[kind]
    for name in known.names():
        if name != "CUSTOM":
            assert all(hasattr(known[name], part) for part in known._parts), name


def test_a_run_imports_no_policy_or_router_but_its_own():
    """In a process of its own: the modules that the command line has imported before it reads a flag."""
    script = "import sys, inference_serving.cli; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    policies = "inference_serving.policies."
    imported = set(said.stdout.split())
    unused = {"bounded_overtake", "aging", "deadlines", "fair", "feedback", "long_caps", "shortest"}
    assert not imported & {policies + name for name in unused} | imported & {
        "inference_serving.routers.prefill"
    }
