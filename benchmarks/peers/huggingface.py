"""Hugging Face `generate` on torch as a worker of `rollout.py`.

As it is meant to be used: dynamic cache, `sdpa` attention, `num_return_sequences` for
the group. Each drawn token's log-prob is taken while its scores are at hand, which is
cheaper than keeping all scores for `compute_transition_scores`. Planned lengths are a
stopping criterion of each row; `generate` computes stopped rows on to the last one.
"""

import os

import torch
import transformers

from benchmarks import worker, workload


class DrawnLogprobs(transformers.LogitsProcessor):
    """Log-prob of each drawn token: at the next call it is the last of the input."""

    def __init__(self):
        self.scores = None
        self.logprobs = []

    def take(self, tokens: torch.Tensor) -> None:
        """Adds the log-probs [B] of the last of `tokens`, drawn from kept scores."""
        drawn = self.scores.gather(1, tokens[:, -1:])[:, 0]
        self.logprobs.append(drawn - self.scores.logsumexp(-1))

    def __call__(self, input_ids, scores):
        """Leaves the scores as they are."""
        if self.scores is not None:
            self.take(input_ids)
        self.scores = scores
        return scores


class PlannedLengths(transformers.StoppingCriteria):
    """Stops each row at its own length."""

    def __init__(self, work: workload.Work):
        self.ends = torch.as_tensor(work.prompts.shape[1] + work.lengths)

    def __call__(self, input_ids, scores, **kwargs):
        """[B] bool."""
        return input_ids.shape[1] >= self.ends


def build(job: worker.Job) -> worker.Engine:
    """`generate` of Qwen2 with the job's weights."""
    shapes, work = job.load()
    model = load_model(job).eval()
    prompts = torch.as_tensor(work.prompts, dtype=torch.long)
    generation = transformers.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=work.max_tokens,
        # No such token: the plan alone ends a completion. Without a stop token,
        # ended rows would not be padded.
        eos_token_id=shapes.vocab,
        pad_token_id=work.pad_id,
        num_return_sequences=work.group_size,
        use_cache=True,
    )
    stopping = [PlannedLengths(work)] if work.ragged else []

    def lengths(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        drawn = DrawnLogprobs()
        with torch.inference_mode():
            tokens = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=generation,
                logits_processor=transformers.LogitsProcessorList([drawn]),
                stopping_criteria=transformers.StoppingCriteriaList(stopping),
            )
            drawn.take(tokens)
            logprobs = torch.stack(drawn.logprobs, dim=1)
        completions = tokens[:, prompts.shape[1] :]
        if logprobs.shape != completions.shape:
            raise RuntimeError(f"{logprobs.shape=} is not {completions.shape=}.")
        return _lengths(completions, work)

    return worker.Engine(
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        runs={"": worker.generating(lengths, work)},
    )


def _lengths(completions: torch.Tensor, work: workload.Work) -> list[int]:
    """The length of each row [B, T]: the planned one if nothing but padding follows it.

    The model knows no stop token, so a row cannot have ended before; and the last token
    that it drew may be the pad, so looking for the first pad would not do.
    """
    width = completions.shape[1]
    return [
        min(int(planned), width) if (row[planned:] == work.pad_id).all() else width
        for row, planned in zip(completions, work.lengths)
    ]


def load_model(job: worker.Job) -> transformers.Qwen2ForCausalLM:
    """Qwen2 in float32 with the job's weights; torch on all cores of this process."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return transformers.Qwen2ForCausalLM.from_pretrained(
        job.checkpoint, dtype=torch.float32
    )


if __name__ == "__main__":
    worker.serve(build)
