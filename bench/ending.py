"""The result line: how a finished run ended, for people."""

from __future__ import annotations

from bench.run import RunFolder


def result_line(folder: RunFolder) -> str:
    """Return "done" with the run's result, or "diverged" with its cause."""
    status, summary = folder.status, folder.summary
    if status["state"] == "diverged":
        return f"diverged, {status['cause']}"
    text = f"done, test accuracy {100 * summary['test/accuracy']:.2f} %"
    if "val/bigram_entropy" in summary:
        unigram, bigram = summary["val/unigram_entropy"], summary["val/bigram_entropy"]
        text += f", validation loss {summary['val/loss']:.4f} nats a token"
        text += f" (entropies: unigram {unigram:.4f}, bigram {bigram:.4f})"
    seconds = summary["clock/data_seconds"] + summary["clock/step_seconds"]
    return f"{text}, {seconds:.1f} s of training"
