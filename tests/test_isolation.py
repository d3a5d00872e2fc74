"""What every other test relies on."""

import socket

import pytest
from pytest_socket import SocketConnectBlockedError


def test_the_outside_network_is_out_of_reach():
    # An address reserved for documentation (RFC 5737): nobody is there even without the block.
    with (
        pytest.warns(UserWarning, match=r"192\.0\.2\.1"),
        pytest.raises(SocketConnectBlockedError),
        socket.socket() as outside,
    ):
        outside.connect(("192.0.2.1", 443))
