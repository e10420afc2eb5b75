"""A process that the guardian starts in a sandbox."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.launching import is_guardian_possible, make_launcher
from ally_plugins.runtime.processes.process import ProcessSpec
from ally_plugins.runtime.processes.programs import run_program
from tests.kit.sandboxes import box_in, needs_sandbox

if TYPE_CHECKING:
    from ally_plugins.runtime.sandbox.box import Box

pytestmark = [
    pytest.mark.anyio,
    needs_sandbox,
    pytest.mark.skipif(not is_guardian_possible(), reason="there is no guardian here"),
]

READS = "import os, sys; print(os.environ['HOME'], flush=True); print(open(sys.argv[1]).read())"


@pytest.fixture
async def launcher() -> AsyncIterator[GuardedLauncher]:
    launcher = GuardedLauncher()
    yield launcher
    await launcher.close()


def spec_in(folder: Path, box: Box | None, *command: str) -> ProcessSpec:
    argv = command or (sys.executable, "-I", "-S", "-c", READS, str(folder / "secret"))
    return ProcessSpec(name="boxed", argv=argv, cwd=str(folder), env={"PATH": os.environ["PATH"]}, box=box)


async def test_a_process_runs_in_its_box_with_the_variables_of_the_box(
    launcher: GuardedLauncher, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    box = box_in(tmp_path)
    box = box._replace(env={"HOME": box.home})

    ran = await run_program(launcher, spec_in(tmp_path, box), b"", 20)

    assert ran.ended == "exited with code 1"
    assert ran.stdout.decode() == f"{box.home}\n"
    assert f"PermissionError: [Errno 13] Permission denied: '{tmp_path}/secret'" in ran.stderr.decode()


async def test_a_process_whose_box_cannot_be_entered_is_not_started(launcher: GuardedLauncher, tmp_path: Path) -> None:
    box = box_in(tmp_path)._replace(home=str(tmp_path / "missing"))

    with pytest.raises(CannotExecute, match=r"its sandbox cannot be entered: no such file or directory") as raised:
        await run_program(launcher, spec_in(tmp_path, box, "/bin/touch", str(tmp_path / "tmp" / "ran")), b"", 20)

    assert raised.value.is_final
    assert not (tmp_path / "tmp" / "ran").exists()


async def test_a_program_outside_of_the_box_is_not_executed(launcher: GuardedLauncher, tmp_path: Path) -> None:
    with pytest.raises(CannotExecute, match="permission denied"):
        await run_program(launcher, spec_in(tmp_path, box_in(tmp_path), "/bin/cat", "/etc/passwd"), b"", 20)


async def test_a_launcher_that_knows_no_sandbox_starts_nothing_that_is_to_be_in_one(tmp_path: Path) -> None:
    launcher = make_launcher("direct")
    try:
        with pytest.raises(CannotExecute, match="its sandbox cannot be entered") as raised:
            await run_program(launcher, spec_in(tmp_path, box_in(tmp_path)), b"", 20)
        assert os.strerror(errno.ENOSYS).lower() in str(raised.value)
    finally:
        await launcher.close()
