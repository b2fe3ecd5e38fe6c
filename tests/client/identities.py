"""Users and apps of tests: each works as itself, in a process of its own, and has canaries in its texts."""
import json
import multiprocessing
import os

from glmd_fixture import UnixConnection, become

fork = multiprocessing.get_context("fork")


class Who:
    """An identity: a uid behind a socket."""

    def __init__(self, number, uid, app):
        self.uid, self.app = uid, app
        self.kept = f"kept{number}zebra{7001 + number * 37}"     # in what is stored
        self.secret = f"lost{number}otter{9003 + number * 41}"   # in what isn't

    canaries = property(lambda self: [self.kept, self.secret])
    prompt = property(lambda self: "I tell you a word that nobody else may know. Remember it well, and repeat it when you are asked to. "
                                   f"The word is {self.secret}. What is the word?")


def as_identity(who, path, work):
    """Runs work(ask) as that user in a process of its own; what it returns comes back."""
    near, far = fork.Pipe()

    def run():
        if who.uid != os.getuid():
            become(who.uid)

        def ask(method, target, body=None, raw=None):
            connection = UnixConnection(path)
            connection.request(method, target, raw if raw is not None else None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = f"{response.status} {response.getheaders()}\n".encode() + response.read()
            connection.close()
            return answer

        try:
            far.send(work(ask))
        except BaseException as failure:
            far.send(failure)

    process = fork.Process(target=run)
    process.start()
    far.close()
    return process, near


def result(process, near):
    answer = near.recv()
    process.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def contains(data, whos):
    return [canary for who in whos for canary in who.canaries if canary.encode() in data]
