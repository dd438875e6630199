"""Each call says which worker runs it; the lines come home in the order of the items, whoever ran them."""

import anypool


def introduce(item):
    sum(range(1_000_000))  # long enough for every worker to get a turn
    print(f"item {item}: {anypool.current_worker()}")


with anypool.get_executor() as ex:
    for _ in ex.map(introduce, range(8)):
        pass
