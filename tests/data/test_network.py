"""Looking for a network never hangs."""

import socket
import threading
import urllib.request

import pytest

from kclr.data import source_tfds as network


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setattr(urllib.request, "getproxies", dict)


def test_answering_host_is_enough(monkeypatch):
    def connect(target, timeout):
        if target[0] == "good":
            return socket.socket()
        raise OSError

    monkeypatch.setattr(network.socket, "create_connection", connect)
    assert network.reachable(["bad", "good"])
    assert not network.reachable(["bad", "worse"])


def test_name_server_that_never_answers_is_not_waited_for(monkeypatch):
    forever = threading.Event()

    def connect(target, timeout):
        forever.wait()
        raise OSError

    monkeypatch.setattr(network, "_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(network.socket, "create_connection", connect)
    assert not network.reachable(["slow", "slower"])
    forever.set()


def test_proxy_is_asked_in_place_of_the_hosts(monkeypatch):
    asked = []

    def connect(target, timeout):
        asked.append(target)
        return socket.socket()

    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://p:3128"})
    monkeypatch.setattr(network.socket, "create_connection", connect)
    assert network.reachable(["a", "b"])
    assert asked == [("p", 3128)]
