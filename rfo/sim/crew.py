"""Threads that replay recorded schedules beside the one that asks for it, each on a core of its own.

A step of a small batch takes less time than Python needs to hand work to another thread: the interpreter belongs to
one thread at a time, and a sleeping core wakes in a tenth of a millisecond. So the threads of a crew never return to
the interpreter. They wait in native code, awake for a while after their last work and asleep after that, and what they
are handed are recorded graphs, by their addresses.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import warp as wp
from warp._src import context

from rfo.sim.bridge import warp_cpu
from rfo.sim.emit import native_kernel
from rfo.sim.schedule import Schedule

__all__ = ["Crew", "crew"]

Words = npt.NDArray[np.int64]

# A mailbox: one for each mate, and one in front for the caller's own share. Words that different threads write lie on
# different pairs of cache lines: processors fetch lines in pairs.
_WORDS = 80
_TURN, _JOBS, _COUNT = 0, 1, 2  # written by the caller; the caller's own turn is the number of mates it calls
_DONE, _FAILED = 16, 17  # written by the mate
_MATE_SLEEPS, _CALLER_SLEEPS = 32, 48
_REPLAY, _READ, _WRITE = 64, 65, 66  # addresses of functions
_AWAKE = 71  # ticks of the processor's clock
_MATE_HEARS, _WAKES_MATE, _CALLER_HEARS, _WAKES_CALLER = 67, 68, 69, 70  # ends of two pipes
_LAST = -1  # instead of a number of words: the mate may go

_AWAKE_ALONE, _AWAKE_BESIDE = 5_000_000, 100_000
"""About 2 ms, enough for what torch does between two steps; and 40 µs where torch's own threads want the core then:
with 2 ms, RFO on 64 ants and two threads trained at half the speed."""

_NAMES = "\n".join(f"#define {name[1:]} {value}" for name, value in list(globals().items()) if type(value) is int)

_COMMON = """\
typedef long long Word;
auto load = [](const Word* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); };
auto exchange = [](Word* word, Word value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); };
// Waits until `word` is no longer `old`. Who is about to sleep says so and looks once more; who changes the word writes
// a byte for one who said so. Both steps are exchanges, so each of the two sees what the other did first.
auto wait = [=](const Word* box, const Word* word, Word old, Word* sleeps, int hears) {
#if defined(__SSE__)
    for (const Word begun = __builtin_ia32_rdtsc(); Word(__builtin_ia32_rdtsc()) - begun < box[AWAKE];
         __builtin_ia32_pause())
        if (load(word) != old) return;
#else
    for (Word spin = 0; spin < box[AWAKE] / 10; ++spin)
        if (load(word) != old) return;
#endif
    exchange(sleeps, 1);
    if (load(word) != old && exchange(sleeps, 0)) return;
    char byte;
    while (((Word (*)(int, void*, unsigned long))box[READ])(hears, &byte, 1) != 1) {}
};
auto set = [=](const Word* box, Word* word, Word value, Word* sleeps, int wakes) {
    exchange(word, value);
    const char byte = 0;
    if (exchange(sleeps, 0))
        while (((Word (*)(int, const void*, unsigned long))box[WRITE])(wakes, &byte, 1) != 1) {}
};
// A job is a graph, a table, a count, and as many numbers for the table. Returns how many failed.
auto perform = [=](const Word* box) {
    const Word* job = (const Word*)box[JOBS];
    Word failed = 0;
    for (const Word* const end = job + box[COUNT]; job < end; job += 3 + job[2]) {
        for (Word i = 0; i < job[2]; ++i) ((Word*)job[1])[i] = job[3 + i];
        failed += !((bool (*)(void*))box[REPLAY])((void*)job[0]);
    }
    return failed;
};
"""

_SERVE = """\
Word* const box = (Word*)boxes.data + element_count * boxes.shape[1];
for (Word turn = 0, last = 0; !last; ++turn) {
    wait(box, box + TURN, turn, box + MATE_SLEEPS, box[MATE_HEARS]);
    last = box[COUNT] == LAST;
    box[FAILED] = perform(box);
    set(box, box + DONE, turn + 1, box + CALLER_SLEEPS, box[WAKES_CALLER]);
}"""

_CALL = """\
Word* const own = (Word*)boxes.data;
const Word mates = own[TURN], words = boxes.shape[1];
for (Word m = 1; m <= mates; ++m) {
    Word* const box = own + m * words;
    set(box, box + TURN, box[TURN] + 1, box + MATE_SLEEPS, box[WAKES_MATE]);
}
own[FAILED] = perform(own);
for (Word m = 1; m <= mates; ++m) {
    Word* const box = own + m * words;
    wait(box, box + DONE, box[TURN] - 1, box + CALLER_SLEEPS, box[CALLER_HEARS]);
    own[FAILED] += box[FAILED];
}"""


@cache
def crew(size: int) -> Crew:
    """The process's crew of `size` threads: simulations share it, so that no two of their threads wait on one core."""
    return Crew(size)


class Crew:
    """Performs jobs side by side, the first share in the calling thread.

    Linux likes to wake a thread on the core of the one that wakes it, where both then take turns for as long as they
    exchange work so quickly. So the other threads avoid, by their affinity, the core that they are called from.

    Args:
        size: Threads, the calling one included.
    """

    def __init__(self, size: int) -> None:
        self._boxes: Words = np.zeros((size, _WORDS), dtype=np.int64)
        boxes = wp.array(ptr=self._boxes.ctypes.data, shape=self._boxes.shape, dtype=wp.int64, device=warp_cpu())
        self._boxes[:, [_REPLAY, _READ, _WRITE]] = _functions()
        self._words = self._boxes.reshape(-1).data  # the same memory: NumPy is slow with single numbers
        self._call = Schedule(_command("crew_call", _CALL, 0, boxes).launch, warp_cpu())
        self._call.prepare()  # has nobody to call yet
        self._lock = threading.Lock()
        pinned = hasattr(os, "sched_setaffinity")
        self._cores = os.sched_getaffinity(0) if pinned else set()
        self._current_core = ctypes.CDLL(None).sched_getcpu if pinned else lambda: -1
        self._avoided = self._awake = -1
        self._mates = [self._mate(place, boxes) for place in range(1, size)]
        if self._mates:
            self._post(len(self._mates))  # returns once all wait
            atexit.register(self._end)  # before Warp lets go of the code that they wait in

    def run(self, shares: Sequence[array[int]]) -> None:
        """Returns once all are done.

        Args:
            shares: What each thread does: jobs (`Crossing.job`), one after the other.

        Raises:
            RuntimeError: A graph could not be replayed.
        """
        with self._lock:
            for place, share in enumerate(shares):
                self._words[place * _WORDS + _JOBS], count = share.buffer_info()
                self._words[place * _WORDS + _COUNT] = count
            self._post(len(shares) - 1)
            failed = self._words[_FAILED]
        if failed:
            raise RuntimeError("a recorded schedule could not be replayed")

    def _mate(self, place: int, boxes: Any) -> threading.Thread:
        (mate_hears, wakes_mate), (caller_hears, wakes_caller) = os.pipe(), os.pipe()
        self._boxes[place, _MATE_HEARS : _WAKES_CALLER + 1] = mate_hears, wakes_mate, caller_hears, wakes_caller
        serve = _command("crew_serve", _SERVE, place, boxes)
        mate = threading.Thread(target=serve.launch, name=f"crew-{place}", daemon=True)
        mate.start()
        return mate

    def _post(self, mates: int) -> None:
        """Calls so many mates, does the first share, and waits for them."""
        if mates and len(self._cores) > 1 and (core := self._current_core()) != self._avoided:
            for mate in self._mates:
                os.sched_setaffinity(mate.native_id or 0, self._cores - {core})
            self._avoided = core
        awake = _AWAKE_ALONE if torch.get_num_threads() == 1 else _AWAKE_BESIDE
        if awake != self._awake:
            self._boxes[:, _AWAKE] = self._awake = awake
        self._words[_TURN] = mates
        self._call.run()

    def _end(self) -> None:
        with self._lock:
            self._boxes[:, _COUNT] = _LAST
            self._post(len(self._mates))
            for mate in self._mates:
                mate.join()


def _command(name: str, snippet: str, place: int, boxes: Any) -> Any:
    """A launch to be repeated from any thread."""
    kernel = native_kernel(name, (("boxes", "wp.array2d(dtype=wp.int64)"),), f"{_NAMES}\n{_COMMON}{snippet}")
    return wp.launch(kernel, dim=1, inputs=[place, boxes], device=boxes.device, record_cmd=True, record_tape=False)


def _functions() -> tuple[int, ...]:
    """Addresses of what replays a CPU graph, of read and of write."""
    libc = ctypes.CDLL(None)
    functions = (context.runtime.core.wp_apic_cpu_replay_state, libc.read, libc.write)
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
