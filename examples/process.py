"""A function runs in another process and is waited for; what it prints is seen here."""

import anypool


def greet(name):
    print("hello", name)
    return len(name)


with anypool.get_executor() as ex:
    future = ex.submit(greet, "bob")
    print("the call returned", future.result())
