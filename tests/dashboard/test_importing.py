"""Import of names from CSV: a preview of each row, and nothing before it is confirmed."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from dashboard import importing
from issuance.models import Certificate, Issuance

pytestmark = pytest.mark.django_db
ADDRESS = "/certificates/import"
TEXT = """names
a.example.org, *.a.example.org
bad..name,b.example.org
"bücher.example.org d.example.org"
a.example.org;*.a.example.org

<script>alert(1)</script>
"""


@pytest.fixture
def form(account, credential):
    return {"text": TEXT, "account": account.pk, "credential": credential.pk, "policy": "HYBRID"}


def test_a_preview_says_what_each_row_does_and_creates_nothing(visitor, form):
    page = visitor.post(ADDRESS, form)
    good, bad = page.context["good"], page.context["bad"]
    assert [row.line for row in good] == [2, 4]
    assert good[1].spec.names == ["xn--bcher-kva.example.org", "d.example.org"]
    assert [row.line for row in bad] == [3, 5, 7]
    assert "Line 2" in bad[1].wrong
    assert "<script>alert" not in page.content.decode()
    assert not Certificate.objects.exists()


def test_confirmed_rows_become_certificates_once(visitor, form):
    sent = form | {"confirmed": "1", "form_key": "k"}
    page = visitor.post(ADDRESS, sent)
    assert [row.created for row in page.context["good"]] == list(
        Certificate.objects.order_by("pk").values_list("pk", flat=True)
    )
    assert Issuance.objects.open().count() == 2
    again = visitor.post(ADDRESS, sent)
    assert len(again.context["existing"]) == 2
    assert Certificate.objects.count() == 2


def test_the_right_to_download_the_keys_is_for_all_rows(visitor, form):
    page = visitor.post(ADDRESS, form | {"export": "on"})
    assert '<input type="hidden" name="export" value="on">' in page.content.decode()
    visitor.post(ADDRESS, form | {"export": "on", "confirmed": "1", "form_key": "k"})
    assert set(Certificate.objects.values_list("server_decrypt_export", flat=True)) == {True}


def test_a_file_is_read_with_or_without_its_mark(visitor, form):
    for mark in (b"", b"\xef\xbb\xbf"):
        file = SimpleUploadedFile("names.csv", mark + b"domain\nx.example.org\n")
        page = visitor.post(ADDRESS, form | {"text": "", "file": file})
        assert [row.spec.names for row in page.context["good"]] == [["x.example.org"]]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"domain\n", b'"x', b"x.example.org\n" * 201, b"x" * 300_000]
)
def test_a_file_that_cannot_be_read_is_refused(visitor, form, content):
    file = SimpleUploadedFile("names.csv", content)
    page = visitor.post(ADDRESS, form | {"text": "", "file": file, "confirmed": "1"})
    assert page.status_code == 400
    assert not Certificate.objects.exists()


def test_the_size_of_a_file_is_counted_in_bytes(visitor, form):
    row = " ".join(f"{'证书' * 15}{number}.example.org" for number in range(16))
    content = "\n".join([row] * 190).encode()
    assert len(content.decode()) < importing.MOST_CHARACTERS < len(content)
    file = SimpleUploadedFile("names.csv", content)
    page = visitor.post(ADDRESS, form | {"text": "", "file": file})
    assert page.status_code == 400
    assert "longer than 256 KiB" in page.content.decode()


def test_an_account_of_another_owner_is_refused(bobs_visitor, form):
    page = bobs_visitor.post(ADDRESS, form | {"confirmed": "1"})
    assert page.status_code == 400
    assert not Certificate.objects.exists()


def test_the_preview_has_a_fixed_number_of_queries(visitor, form, django_assert_max_num_queries):
    rows = "\n".join(f"n{number}.example.org" for number in range(importing.MOST_ROWS))
    for text in ("n.example.org", rows):
        with django_assert_max_num_queries(30):
            visitor.post(ADDRESS, form | {"text": text})
