"""How is work done by threads ahead of the one who needs it, in order and in bounded memory?"""

import collections
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    workers: int | None = None,
) -> Generator[Future[Result]]:
    """The finished or running calls of a function, in the items' order.

    Closing the generator drops the calls that have not begun.

    Args:
      function: Called in threads.
      items: One for each call.
      ahead: Most calls that are begun or finished but not yet handed out.
      workers: Threads; one per core unless given.
    """
    pending: collections.deque[Future[Result]] = collections.deque()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                if len(pending) == ahead:
                    yield pending.popleft()
                pending.append(pool.submit(function, item))
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
