"""One function is applied to many items, by several workers; the results come in the order of the items."""

import anypool


def square(x):
    return x * x


with anypool.get_executor() as ex:
    print(list(ex.map(square, [2, 3, 4, 5, 6, 7, 8])))
    print(list(ex.map(square, [1, 2, 3, 4])))
