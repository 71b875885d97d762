"""Plain Hugging Face on torch as a worker of `train.py`: forward, backward, AdamW.

What one writes without a library for reinforcement learning: logits of the completion
alone, micro-batches cut to their longest completion, gradients added up.
"""

import torch
import transformers

from benchmarks import worker, workload
from benchmarks.peers import huggingface


def build(job: worker.Job) -> worker.Engine:
    """A model and an optimizer, and the update of the workload."""
    _, work = job.load()
    model, update = huggingface.load_model(job).train(), job.update()
    adamw = update.adamw
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=adamw.learning_rate,
        betas=(adamw.b1, adamw.b2),
        eps=adamw.eps,
        weight_decay=adamw.weight_decay,
    )
    batches = [micro_batch(update, rows) for rows in update.micro_batches]
    count = int(update.mask.sum())

    def run() -> dict:
        loss, trained = 0.0, 0
        for batch in batches:
            part = loss_sum(model, batch, update) / count
            part.backward()
            loss, trained = loss + part.item(), trained + int(batch["mask"].sum())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), adamw.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss, "grad_norm": norm.item(), "trained": trained}

    return worker.Engine(
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        runs={"": worker.updating(run, work)},
    )


def micro_batch(update: workload.Update, rows: slice) -> dict[str, torch.Tensor]:
    """Some rows as tensors, without the columns that are padding in all of them."""
    longest = int(update.mask[rows].sum(axis=1).max())
    arrays = {
        "prompts": update.prompts[rows].astype("int64"),
        "completions": update.completions[rows, :longest].astype("int64"),
        "mask": update.mask[rows, :longest],
        "advantages": update.advantages[rows, None],
        "old_logprobs": update.old_logprobs[rows, :longest],
    }
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def loss_sum(model, batch: dict[str, torch.Tensor], update: workload.Update):
    """The clipped surrogate, negative and summed over the tokens of a micro-batch."""
    completions, mask = batch["completions"], batch["mask"]
    tokens = torch.cat([batch["prompts"], completions], dim=1)
    seen = torch.cat([torch.ones_like(batch["prompts"]), mask.long()], dim=1)
    columns = completions.shape[1]
    logits = model(
        input_ids=tokens,
        attention_mask=seen,
        logits_to_keep=columns + 1,  # the last prompt token scores the first drawn one
        use_cache=False,
    ).logits[:, :-1]
    chosen = logits.gather(2, completions[..., None])[..., 0]
    ratio = torch.exp(chosen - logits.logsumexp(-1) - batch["old_logprobs"])
    clipped = ratio.clamp(1 - update.clip_low, 1 + update.clip_high)
    advantages = batch["advantages"]
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -(surrogate * mask).sum()


if __name__ == "__main__":
    worker.serve(build)
