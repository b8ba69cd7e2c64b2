"""What `headrace model push` asks for before it asks anyone."""

from __future__ import annotations

import pytest

from headrace.cli.exits import ExitCode
from headrace.cli.main import main


@pytest.mark.parametrize("to", ["churn", "models:/", "models:/churn/3", "models:/churn@champion"])
def test_it_takes_the_name_of_a_registered_model_alone(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "push", "churn", "3", "--to", to]) == ExitCode.BAD_INPUT
    assert "say --to models:/NAME" in capsys.readouterr().err
