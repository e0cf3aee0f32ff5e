"""Sysctls in spec and plan: the worked example of CONTRIBUTING.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import SpecError
from supervisor.host import gather
from supervisor.paths import Paths
from supervisor.plan import Plan, compile
from supervisor.spec import ContainerSpec


def plan(tmp_path: Path, **fields: object) -> Plan:
    return compile(ContainerSpec.from_mapping(fields), gather(Paths.find(str(tmp_path))))


def test_only_what_belongs_to_a_namespace_of_its_own() -> None:
    with pytest.raises(SpecError, match=r"sysctls 'vm.swappiness' .*only namespaced ones"):
        ContainerSpec(sysctls={"vm.swappiness": "1"})
    with pytest.raises(SpecError, match="do not share net"):
        ContainerSpec(sysctls={"net.core.somaxconn": "5"}, share="net")


def test_they_are_set_in_order_when_proc_is_there(tmp_path: Path) -> None:
    wanted = {"net.core.somaxconn": "5", "kernel.msgmax": "4096"}
    steps = plan(tmp_path, sysctls=wanted).own
    assert [step[1:] for step in steps if step[0] == "sysctl"] == list(wanted.items())
    calls = [step[:2] for step in steps]
    assert calls.index(("mount", "proc")) < calls.index(("sysctl", "net.core.somaxconn"))


def test_without_any_there_is_no_step(tmp_path: Path) -> None:
    bare = plan(tmp_path)
    assert not [step for step in bare.shared + bare.own + bare.workload if step[0] == "sysctl"]
