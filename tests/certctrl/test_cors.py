"""A browser shows the API's responses to pages of trusted origins only."""

import pytest

TRUSTED = "https://panel.example.com"
PATH = "/apiv1/me/apikeys"
ASKING = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,idempotency-key",
}
STRANGERS = [
    "https://evil.example",
    "null",
    TRUSTED + ".evil.example",
    "http://panel.example.com",
    "https://[x",
    "",
]


@pytest.fixture(autouse=True)
def _trusted(settings):
    settings.TRUSTED_ORIGINS = [TRUSTED]


def cors_headers(response):
    return {
        name: value
        for name, value in response.headers.items()
        if name.startswith("Access-Control-")
    }


def words(header):
    return {word.strip().lower() for word in header.split(",")}


def test_a_trusted_page_may_read_the_answer_and_its_headers(client_of, alice):
    response = client_of(alice).get(PATH, headers={"Origin": TRUSTED})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == TRUSTED
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    exposed = words(response.headers["Access-Control-Expose-Headers"])
    assert exposed == {
        "link",
        "x-total-count",
        "x-total-count-more",
        "x-export-password",
        "retry-after",
        "content-disposition",
    }


@pytest.mark.parametrize(
    ("path", "status"), [(PATH, 401), ("/apiv1/nothing", 404), ("/auth/profile", 401)]
)
def test_a_trusted_page_may_read_errors_too(client_of, db, path, status):
    response = client_of().get(path, headers={"Origin": TRUSTED})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == TRUSTED


@pytest.mark.parametrize("path", [PATH, "/auth/general", "/apiv1/me/certificates/1"])
def test_a_preflight_of_a_trusted_page_is_answered_without_a_credential(client_of, path):
    response = client_of().options(
        path, headers=ASKING | {"Origin": TRUSTED, "Sec-Fetch-Site": "cross-site"}
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == TRUSTED
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert words(response.headers["Access-Control-Allow-Methods"]) == {
        "get",
        "post",
        "put",
        "patch",
        "delete",
    }
    allowed = words(response.headers["Access-Control-Allow-Headers"])
    assert allowed == {"content-type", "authorization", "idempotency-key"}


@pytest.mark.parametrize("origin", STRANGERS)
def test_other_origins_get_nothing(client_of, alice, origin):
    headers = {"Origin": origin} if origin else {}
    for response in (
        client_of(alice).get(PATH, headers=headers),
        client_of(alice).options(PATH, headers=ASKING | headers),
        client_of().options(PATH, headers=ASKING | headers),
    ):
        assert cors_headers(response) == {}


def test_a_preflight_of_another_origin_is_no_way_around_the_405(client_of, alice):
    assert (
        client_of(alice)
        .options(PATH, headers=ASKING | {"Origin": "https://evil.example"})
        .status_code
        == 405
    )
    assert client_of(alice).options(PATH, headers={"Origin": TRUSTED}).status_code == 405


@pytest.mark.parametrize("headers", [{}, {"Origin": TRUSTED}, {"Origin": "https://evil.example"}])
def test_caches_keep_the_answers_for_different_origins_apart(client_of, alice, headers):
    for response in (
        client_of(alice).get(PATH, headers=headers),
        client_of().options(PATH, headers=ASKING | headers),
    ):
        assert "origin" in words(response.headers["Vary"])


def test_pages_for_people_are_read_by_no_other_origin(client_of, db):
    assert cors_headers(client_of().get("/admin/login/", headers={"Origin": TRUSTED})) == {}
