import resource
import subprocess
import sys

import pytest
from cli_command import ENVIRONMENT, run

COMMANDS = (
    "demo",
    "prune",
    "compress",
    "search",
    "sensitivity",
    "plan",
    "apply",
    "verify",
    "evaluate",
    "export",
    "groups",
    "profile",
    "measure",
    "inspect",
    "pack",
    "unpack",
    "quantize",
)


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom secateur.cli.app import main\nassert main(['--help']) == 0\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'yaml', 'safetensors') if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "[]"
    # Seconds of the processor, which other work on the machine does not stretch as it does those of the clock.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Example: secateur {command}" in " ".join(ran.out.split())


def test_help_names_every_command() -> None:
    ran = run()
    assert ran.code == 0
    for command in COMMANDS:
        assert command in ran.out
    assert run("--version").out.startswith("secateur ")
