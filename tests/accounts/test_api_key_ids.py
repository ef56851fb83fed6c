"""An API key may be granted ids that no row can have."""


def test_a_granted_id_beyond_what_a_row_can_have_lists_nothing(alice, key_client):
    answer = key_client(alice, "certificates:9223372036854775808[read]").get(
        "/apiv1/me/certificates"
    )
    assert (answer.status_code, answer.data_member) == (200, [])
