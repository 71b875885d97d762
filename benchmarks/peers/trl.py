"""TRL's `GRPOTrainer` as a worker of `train.py`: one update, or whole steps.

An update is its `training_step` over the micro-batches and its optimizer's step. A
whole step is its `train` loop: `generate`, rewards, advantages, update.
"""

import pathlib

import datasets
import tokenizers
import torch
import transformers
import trl
from tokenizers import models, pre_tokenizers

from benchmarks import worker, workload
from benchmarks.peers import huggingface, loop

_STEPS = 10_000  # more than anyone waits for; the loop ends with the process


class GivenTrainer(trl.GRPOTrainer):
    """Trains on batches as they come, without completions of its own."""

    def _prepare_inputs(self, generation_batch):
        return generation_batch


class BetweenSteps(transformers.TrainerCallback):
    """Calls a function whenever a step is done."""

    def __init__(self, pause):
        self.pause = pause

    def on_step_end(self, args, state, control, **kwargs):
        """After the optimizer's step."""
        self.pause()


def build(job: worker.Job) -> worker.Engine:
    """A GRPO trainer around Qwen2 with the job's weights."""
    build_run = {"update": _updating, "step": _stepping}[job.task]
    return worker.Engine(
        versions={
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        runs={"": build_run(job, job.load()[1])},
    )


def _updating(job: worker.Job, work: workload.Work) -> worker.Run:
    """Updates from batches that are given."""
    update = job.update()
    trainer = _trainer(GivenTrainer, job, rewards=lambda completions, **kwargs: [])
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = len(update.micro_batches)
    model = trainer.model.train()
    batches = [_batch(update, rows) for rows in update.micro_batches]

    def run() -> dict:
        loss, trained = 0.0, 0
        for batch in batches:
            loss += trainer.training_step(model, dict(batch), None).item()
            trained += int(batch["completion_mask"].sum())
        norm = torch.nn.utils.clip_grad_norm_(
            model.parameters(), update.adamw.max_grad_norm
        )
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return {"loss": loss, "grad_norm": norm.item(), "trained": trained}

    return worker.updating(run, work)


def _batch(update: workload.Update, rows: slice) -> dict[str, torch.Tensor]:
    """A micro-batch as the trainer cuts it: padded to the longest of the update."""
    prompts = torch.as_tensor(update.prompts[rows], dtype=torch.long)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": torch.as_tensor(update.completions[rows], dtype=torch.long),
        "completion_mask": torch.as_tensor(update.mask[rows], dtype=torch.long),
        "advantages": torch.as_tensor(update.advantages[rows]),
        "old_per_token_logps": torch.as_tensor(update.old_logprobs[rows]),
        "num_items_in_batch": torch.tensor(float(update.mask.sum())),
    }


def _stepping(job: worker.Job, work: workload.Work) -> worker.Run:
    """Steps of the trainer's loop."""
    seen = []

    def rewards(completions, completion_ids, **kwargs) -> list[float]:
        seen.extend(map(len, completion_ids))
        return [workload.reward(text) for text in completions]

    trainer = _trainer(trl.GRPOTrainer, job, rewards=rewards)

    def train(pause) -> None:
        trainer.add_callback(BetweenSteps(pause))
        trainer.train()

    stepwise = loop.Stepwise(train)

    def lengths(seed: int) -> list[int]:
        del seed  # TRL goes on with its own
        seen.clear()
        stepwise.step()
        return seen

    return worker.generating(lengths, work)


def _trainer(kind: type[trl.GRPOTrainer], job: worker.Job, *, rewards):
    """A trainer of a kind with the workload's settings."""
    shapes, work = job.load()
    update, adamw = job.update(), job.update().adamw
    settings = trl.GRPOConfig(
        output_dir=str(pathlib.Path(job.checkpoint).with_name("trl")),
        per_device_train_batch_size=update.micro_rows,
        gradient_accumulation_steps=len(update.micro_batches),
        num_generations=work.group_size,
        max_completion_length=work.max_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        loss_type="dapo",
        epsilon=update.clip_low,
        epsilon_high=update.clip_high,
        learning_rate=adamw.learning_rate,
        adam_beta1=adamw.b1,
        adam_beta2=adamw.b2,
        adam_epsilon=adamw.eps,
        weight_decay=adamw.weight_decay,
        max_grad_norm=adamw.max_grad_norm,
        lr_scheduler_type="constant",
        max_steps=_STEPS,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=_STEPS,
        disable_tqdm=True,
    )
    texts = [" ".join(map(str, prompt)) for prompt in work.prompts]
    return kind(
        model=huggingface.load_model(job),
        reward_funcs=rewards,
        args=settings,
        # Long enough that no epoch ends, for a new one costs time.
        train_dataset=datasets.Dataset.from_dict({"prompt": texts * 100}),
        processing_class=_tokenizer(shapes, work),
    )


def _tokenizer(shapes: workload.Model, work: workload.Work):
    """Token ids in decimal; its stop token is beyond what the model can draw."""
    vocab = {str(i): i for i in range(shapes.vocab)} | {"<stop>": shapes.vocab}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<stop>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=str(work.pad_id),
        eos_token="<stop>",
        padding_side="left",
    )


if __name__ == "__main__":
    worker.serve(build)
