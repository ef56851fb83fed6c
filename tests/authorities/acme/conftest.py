"""A CA on loopback, and the ACME client for an account there."""

from collections.abc import Iterator

import pytest

from authorities import acme
from tests.authorities import stub as stubs


@pytest.fixture
def stub() -> Iterator[stubs.Stub]:
    with stubs.running() as running:
        yield running


@pytest.fixture
def ca(stub: stubs.Stub) -> acme.AcmeCA:
    return acme.AcmeCA(stub.directory_url, acme.new_account_key(), url=f"{stub.url}/account/1")
