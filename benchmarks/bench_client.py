"""What an evaluation costs on our side of the wire: requests a second of one core, with a server that answers at once.

    python -m benchmarks.bench_client            # 960 samples of the lab's problems
    python -m benchmarks.bench_client --quick    # 240

Everything but the model is real: seeds, bodies, connections, reading, grading, every sample appended to its file. The
stand-in is a process of its own and writes the same answer of 44 tokens to each request. What counts is processor time
of this process, since the server has the other cores. 340 requests a second are 15,000 tokens a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.core.sampling import PRESETS
from skippy.evaluation.asking import Plan, fill
from skippy.evaluation.suites import load_problem_set, problem_questions, requests_for
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.vllm_backend import IN_FLIGHT
from skippy.resolve.subjects import Subject
from skippy.stores.samples import SampleStore, read_samples

LEAST_PER_SECOND = 340.0
TOKENS = 44
ANSWER = "So 17 + 25 = 42, and 42 less 7 is 35, which leaves \\boxed{35}. " * 2
DIGEST = "0" * 64


class StandIn(asyncio.Protocol):
    """Reads requests off one connection and answers each at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        self.transport, self.seen = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self.seen += data
        while b"\r\n\r\n" in self.seen:
            head, _, rest = self.seen.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            length = int(lengths[0].split(b":")[1]) if lengths else 0
            if len(rest) < length:
                return
            self.seen = rest[length:]
            body = MODELS if head.startswith(b"GET") else COMPLETION
            self.transport.write(  # type: ignore[attr-defined]
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )


MODELS = json.dumps({"data": [{"id": "base", "owned_by": "vllm"}]}).encode()
COMPLETION = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "base",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 30, "completion_tokens": TOKENS, "total_tokens": 30 + TOKENS},
    }
).encode()


def answer_all(listener: socket.socket) -> None:
    """Serve until killed."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(StandIn, sock=listener, backlog=2048)
        await server.serve_forever()

    asyncio.run(main())


def measure(problems: int, folder: Path) -> tuple[float, float]:
    """Requests a second by the clock and by this process's processor time."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = multiprocessing.get_context("fork").Process(target=answer_all, args=(listener,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    listener.close()
    asked = load_problem_set("lab", problems)
    subject = Subject("bench", "base", LAB_CHECKPOINT, DIGEST, str(LAB_CHECKPOINT))
    questions = problem_questions(asked, "plain")
    plan = Plan(subject, load_character("skippy"), asked, questions, PRESETS["lab"], 4)
    wanted = requests_for(questions, plan.samples, plan.sampling, DIGEST, set())
    backend = OpenAIBackend(url, "base", IN_FLIGHT, load_tokenizer(LAB_CHECKPOINT))
    try:
        assert backend.supports(plan.sampling)
        clock, used = time.perf_counter(), time.process_time()
        with SampleStore(folder / "samples.jsonl") as store:
            fill(store, wanted, plan, DIGEST, backend)
        clock, used = time.perf_counter() - clock, time.process_time() - used
    finally:
        server.kill()
    assert len(list(read_samples(folder / "samples.jsonl"))) == len(wanted)
    return len(wanted) / clock, len(wanted) / used


def main() -> None:
    """Print both; fail where a core does not keep up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the samples")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        by_clock, by_processor = measure(60 if arguments.quick else 240, Path(name))
    print(f"{'requests a second, one client':<40}{'by the clock':>14}{'of one core':>14}")
    print(f"{'through fill, samples in their file':<40}{by_clock:>14.0f}{by_processor:>14.0f}")
    print(
        f"{f'the same in tokens, {TOKENS} an answer':<40}{by_clock * TOKENS:>14.0f}{by_processor * TOKENS:>14.0f}"
    )
    if by_processor < LEAST_PER_SECOND:
        raise SystemExit(f"missed: {by_processor:.0f} requests a second, {LEAST_PER_SECOND:.0f} wanted")


if __name__ == "__main__":
    main()
