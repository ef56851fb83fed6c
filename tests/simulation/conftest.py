import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        action="append",
        help="run this seed of the simulator, and tell its trace",
    )
