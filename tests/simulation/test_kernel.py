"""Virtual time: order, jumps, the streams of choices, and the ways in which a run gets stuck."""

import asyncio

import pytest

from cluster.sim.kernel import Kernel, NothingLeft, OutOfSteps, OutOfTime


def test_time_jumps_to_the_next_event_and_ties_keep_the_order_they_were_asked_in():
    kernel = Kernel(1)
    seen = []

    async def wait():
        kernel.after(3600, lambda: seen.append(("hour", kernel.now)))
        kernel.after(0.5, lambda: seen.append(("first", kernel.now)))
        kernel.after(0.5, lambda: seen.append(("second", kernel.now)))
        done = kernel.create_future()
        kernel.after(3600, done.set_result, None)
        await done

    kernel.run_until_complete(wait())
    kernel.close()
    assert seen == [("first", 0.5), ("second", 0.5), ("hour", 3600.0)]


def test_asyncio_workflows_run_unchanged():
    kernel = Kernel(1, max_seconds=100)
    seen: list[object] = []

    async def work(name, seconds):
        await asyncio.wait([kernel.create_future()], timeout=seconds)
        seen.append((name, asyncio.get_running_loop().time()))

    async def several():
        async with asyncio.TaskGroup() as group:
            group.create_task(work("b", 2))
            group.create_task(work("a", 1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kernel.create_future(), 7)
        timer = kernel.call_later(1, seen.append, "cancelled")
        timer.cancel()
        await asyncio.wait([kernel.create_future()], timeout=2)

    kernel.run_until_complete(several())
    assert seen == [("a", 1.0), ("b", 2.0)]
    assert kernel.now == 11.0
    kernel.close()


def test_sets_of_tasks_have_one_order():
    def order():
        kernel = Kernel(1)

        async def several():
            tasks = [kernel.create_task(asyncio.wait_for(kernel.create_future(), 1)) for _ in range(50)]
            done, _ = await asyncio.wait(tasks)
            assert all(isinstance(task.exception(), TimeoutError) for task in tasks)
            return [tasks.index(task) for task in done]

        try:
            return kernel.run_until_complete(several())
        finally:
            kernel.close()

    assert order() == order()


def test_a_stream_is_not_shifted_by_another():
    kernel, other = Kernel(7), Kernel(7)
    other.random("network").random()
    assert kernel.random("disk").random() == other.random("disk").random()
    assert kernel.random("disk").random() != kernel.random("network").random()
    assert Kernel(8).random("disk").random() != kernel.random("disk").random()


async def forever(kernel):
    def again():
        kernel.after(0.001, again)

    again()
    await kernel.create_future()


@pytest.mark.parametrize(
    ("kernel", "stuck"), [(Kernel(1, max_seconds=5), OutOfTime), (Kernel(1, max_steps=100), OutOfSteps)]
)
def test_a_run_without_end_runs_out(kernel, stuck):
    with pytest.raises(stuck):
        kernel.run_until_complete(forever(kernel))
    kernel.close()


def test_waiting_for_what_will_never_happen_is_found_at_once():
    kernel = Kernel(1)

    async def wait():
        await kernel.create_future()

    with pytest.raises(NothingLeft):
        kernel.run_until_complete(wait())
    kernel.close()


def test_what_an_event_raises_ends_the_run():
    kernel = Kernel(1)

    def fail():
        raise LookupError("planted")

    async def wait(callback):
        callback()
        await kernel.create_future()

    for plant in (lambda: kernel.after(1, fail), lambda: kernel.call_soon(fail), lambda: kernel.call_later(1, fail)):
        with pytest.raises(LookupError, match="planted"):
            kernel.run_until_complete(wait(plant))
    kernel.close()


def test_closing_cancels_what_still_runs():
    kernel = Kernel(1)
    ended = []

    async def wait(name):
        try:
            await kernel.create_future()
        finally:
            ended.append(name)

    async def start():
        for name in "abc":
            kernel.create_task(wait(name))
        await asyncio.wait([kernel.create_future()], timeout=1)

    kernel.run_until_complete(start())
    kernel.close()
    assert ended == ["a", "b", "c"]
