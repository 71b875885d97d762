"""One HAPO step on one page, slow and whole: start reading here.

    python -m hapo_jax.plain    # a few steps on the CPU, what they did to some tokens

HAPO (arXiv 2509.16591) is PPO for language models without a critic: the rewards of a
group, G completions of one prompt, are each other's baseline. What is new is that the
entropy of a token steers four places, A to D. A step is, top to bottom:

    sample       completions, token by token               A  temperature: Eq. (8)
    grade        a program says 1 (right) or 0 (wrong)
    score        old log-probs; the entropy score             Eq. (5), (6)
    advantages   normalised over all tokens of a group     B  Eq. (9)
    loss         redistributed advantages                  C  Eq. (10), (11)
                 in a clip range of each token's own       D  Eq. (12), (13)
    update       AdamW, several times per batch

Equation numbers are those of the paper's second version; "paper: open" marks what it
does not say. The rest of the package computes the same numbers fast and on many
devices, and is tested against this page. Two parts of DAPO are left out: replacing
groups without signal, and a penalty for long completions.

Letters: N prompts in P columns, B = N·G completions of T tokens, V words in the
vocabulary. Column t of every [B, T] array is about completion token t.
"""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp  # NumPy's functions on JAX arrays
import numpy as np
import optax
from flax import nnx

from hapo_jax.model import huggingface, tokenizer, transformer
from hapo_jax.tasks import countdown


class Settings(NamedTuple):
    """The paper's constants; inputs like any array, so a change compiles nothing."""

    quantile: float = 0.8  # ρ, the share of tokens that count as confident
    floor: float = 1e-8  # nats, so that the logarithm is finite; paper: open
    base_temperature: float = 1.0  # T_base
    tau: float = 0.1  # τ, the strength of A
    clip_low: float = 0.2  # ε_L and ε_R of a token with score 0
    clip_high: float = 0.28


class Setup(NamedTuple):
    """What stays the same all run; another Setup compiles every function anew."""

    graphdef: nnx.GraphDef  # the model's code; its numbers, `params`, travel apart
    optimizer: optax.GradientTransformation
    stop_ids: tuple[int, ...]  # tokens that end a completion, and belong to it
    pad_id: int
    max_tokens: int  # T
    group_size: int = 8  # G
    minibatch_rows: int = 32  # completions per optimizer update
    passes: int = 2  # over the batch


class Stats(NamedTuple):
    """Of x = log H over all tokens of a batch."""

    quantile: float = 0.0  # Q_ρ(x)
    std: float = np.inf  # σ(x); infinite before the first batch, so that every h is 0
    h_max: float = 0.0
    h_min: float = 0.0


class Samples(NamedTuple):
    """What sampling leaves behind; [B, T] each."""

    tokens: jax.Array  # int32
    mask: jax.Array  # bool, True up to and with the stop token
    entropy: jax.Array  # H, nats
    temperature: jax.Array
    behavior_logprobs: jax.Array  # under the distribution that was drawn from


class Batch(NamedTuple):
    """What the loss reads, all of it constant; [B, T] each but the first two."""

    prompts: jax.Array  # [B, P] int32, padded on the left, a group's rows together
    prompt_lengths: jax.Array  # [B] int32
    completions: jax.Array
    mask: jax.Array
    old_logprobs: jax.Array  # under the policy before the step's first update
    score: jax.Array  # h̃
    advantages: jax.Array  # A


def policy_logits(setup, params, prompts, prompt_lengths, completions):
    """Logits of each completion token given all tokens before it; [B, T, V]."""
    model = nnx.merge(setup.graphdef, params)  # code and numbers make a model again
    P = prompts.shape[1]
    tokens = jnp.concatenate([prompts, completions], axis=1)  # [B, P + T]
    column = jnp.arange(tokens.shape[1])[None]  # [1, P + T]
    start = (P - prompt_lengths)[:, None]  # [B, 1]; padding lies before it
    hidden = model(tokens, jnp.maximum(column - start, 0), jnp.int32(column >= start))
    # What the model says at a column is about the next one: hence P - 1 and not P.
    return model.logits(hidden[:, P - 1 : -1])


def entropy_of(logits):
    """H = -Σ p log p = log Σ exp(z) - Σ p z of untempered logits z, in nats."""
    z = logits - logits.max(-1, keepdims=True)  # so that small entropies keep digits
    total = jnp.exp(z).sum(-1)
    return jnp.log(total) - (jnp.exp(z) * z).sum(-1) / total


def raw_score(entropy, stats, settings):
    """Eq. (5): h = (log H - Q_ρ) / σ. Negative: more confident than the quantile."""
    x = jnp.log(jnp.maximum(entropy, settings.floor))
    return (x - stats.quantile) / stats.std


# `jit` compiles a function at its first call. Arrays may then change from call to call,
# but not their shapes. A static argument is no array: a new value compiles again.
@functools.partial(jax.jit, static_argnums=0)
def sample(setup, params, prompts, prompt_lengths, keys, stats, settings) -> Samples:
    """Draws a completion for each row; random keys [B] as `row_keys` makes them."""

    def position(carry, t):
        """One token for each row; `carry` goes on from token to token."""
        completions, alive = carry  # [B, T], [B]
        # All is read again for each token. A cache would spare that, for equal logits.
        logits = policy_logits(setup, params, prompts, prompt_lengths, completions)
        logits = logits[:, t]  # [B, V]

        # A, Eq. (8): T_t = T_base (1 + τ h). Cooler where the policy is confident and
        # hotter where it is not, by the statistics of the step before. h has no bounds
        # and could make T negative, so T has; paper: open.
        entropy = entropy_of(logits)  # [B]
        factor = 1 + settings.tau * raw_score(entropy, stats, settings)
        temperature = settings.base_temperature * jnp.clip(factor, 0.5, 1.5)  # [B]

        log_q = jax.nn.log_softmax(logits / temperature[:, None])  # drawn from this
        # `vmap` turns a function of one key into a function of B keys.
        uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t)))
        # The first token at which the summed probability exceeds a uniform number.
        cdf = jnp.cumsum(jnp.exp(log_q), axis=1)
        drawn = jnp.argmax(cdf > uniform(keys)[:, None] * cdf[:, -1:], axis=1)
        logprob = jnp.take_along_axis(log_q, drawn[:, None], axis=1)[:, 0]

        token = jnp.where(alive, drawn, setup.pad_id).astype(jnp.int32)
        completions = completions.at[:, t].set(token)  # a new array: none ever changes
        stopped = (token[:, None] == jnp.array(setup.stop_ids)[None]).any(axis=1)
        seen = [jnp.where(alive, x, 0) for x in (entropy, temperature, logprob)]
        return (completions, alive & ~stopped), Samples(token, alive, *seen)

    # `scan` is a loop in the compiled program: T calls of `position`, whose second
    # results are stacked along a new first axis. Shapes are fixed, so rows that have
    # ended go on, and the mask says that they do not count.
    empty = jnp.full((len(prompts), setup.max_tokens), setup.pad_id, jnp.int32)
    start = empty, jnp.ones(len(prompts), bool)
    _, samples = jax.lax.scan(position, start, jnp.arange(setup.max_tokens))
    return jax.tree.map(jnp.transpose, samples)  # each field: [T, B] → [B, T]


def row_keys(seed, step, prompt_ids, sample_ids):
    """[B] random keys, each of (seed, step, prompt, sample) and nothing else."""
    # JAX's generator has no state: a key draws the same numbers whenever it is used.
    mix = jax.random.fold_in  # (key, number) → key
    of_step = mix(jax.random.key(seed), step)
    row = jax.vmap(lambda prompt, sample: mix(mix(of_step, prompt), sample))
    return row(np.uint32(prompt_ids), np.uint32(sample_ids))


@functools.partial(jax.jit, static_argnums=0)
def score_tokens(setup, params, prompts, prompt_lengths, completions, settings):
    """Log-prob of each token, and the entropy at its place; [B, T] each."""
    # At T_base, not at what A made of it: ratios compare policies, not temperatures.
    logits = policy_logits(setup, params, prompts, prompt_lengths, completions)
    log_p = jax.nn.log_softmax(logits / settings.base_temperature)  # [B, T, V]
    logprobs = jnp.take_along_axis(log_p, completions[..., None], axis=2)[..., 0]
    return logprobs, entropy_of(logits)


def fit_stats(entropy, mask, settings) -> Stats:
    """What Eq. (5) and (6) need to know of all tokens of a batch; NumPy."""
    x = np.log(np.maximum(entropy[mask], settings.floor))
    # An order statistic, and the deviation of a population; paper: open.
    quantile = np.sort(x)[round(settings.quantile * (len(x) - 1))]
    std = x.std() if x.min() < x.max() else np.inf
    return Stats(quantile, std, (x.max() - quantile) / std, (x.min() - quantile) / std)


def entropy_score(entropy, stats, settings):
    """Eq. (6): h̃ = h / h_max for h > 0, and h / |h_min| for h <= 0; [B, T].

    In [-1, 1]: -1 is the batch's most confident token, 0 the quantile. The paper prints
    -h / |h_min|, against that range and against all it says of confident tokens.
    """
    h = raw_score(entropy, stats, settings)
    scale = jnp.where(h > 0, stats.h_max, -stats.h_min)
    return h / jnp.maximum(scale, 1e-8)  # a side without a token has no h either


def token_group_advantages(rewards, mask, group_size):
    """B, Eq. (9): A = (a - μ) / σ, where each token of completion i carries a = R_i.

    μ and σ run over all tokens of a group. So advantages add up to 0 over its tokens,
    which the loss averages, and long failures do not outweigh short successes.
    """
    advantages = np.zeros(mask.shape, np.float32)
    for first in range(0, len(rewards), group_size):
        rows = slice(first, first + group_size)
        a = np.broadcast_to(rewards[rows, None], mask[rows].shape)[mask[rows]]  # tokens
        if a.min() < a.max():  # else all are right or all wrong: no signal
            advantages[rows][mask[rows]] = (a - a.mean()) / (a.std() + 1e-6)
    return advantages


def loss(params, setup, batch, settings):
    """The mean token loss of a mini-batch, and what became of each token, [B, T]."""
    logprobs, _ = score_tokens(setup, params, *batch[:3], settings)
    ratio = jnp.exp(logprobs - batch.old_logprobs)
    # `stop_gradient` makes a constant of r. C and D look at it to decide, and the
    # policy must not be trained to sway the decision.
    r, h = jax.lax.stop_gradient(ratio), batch.score

    # D, Eq. (12): ε_L (1 - h̃) for h̃ <= 0. What is confident may fall faster.
    low = settings.clip_low * (1 - jnp.minimum(h, 0))
    # D, Eq. (13): ε_R (1 + h̃) for h̃ > 0. What is uncertain may rise faster.
    high = settings.clip_high * (1 + jnp.maximum(h, 0))

    # C, Eq. (11): the signal is clear where an uncertain token has left the neutral
    # zone, or a confident one is in it. (Closed in the paper, open in its code.)
    neutral = (r > 1 - low / 2) & (r < 1 + high / 2)
    clear = jnp.where(h > 0, ~neutral, neutral)
    # C, Eq. (10): Â = A (1 + h̃) there, A elsewhere. So uncertain tokens on the move
    # count more, and the most confident one not at all until it moves: 1 + h̃ = 0.
    advantages = jnp.where(clear, batch.advantages * (1 + h), batch.advantages)

    # Eq. (3), of DAPO, with ranges from D and advantages from C: PPO's clipped
    # surrogate as a loss, without KL or entropy bonus, and a mean over tokens, not over
    # completions. What stands in padding is meaningless, so `where` comes before `sum`.
    bounded = jnp.clip(ratio, 1 - low, 1 + high)
    token_loss = -jnp.minimum(ratio * advantages, bounded * advantages)
    mean = jnp.where(batch.mask, token_loss, 0).sum() / batch.mask.sum()
    below = batch.mask & (advantages < 0) & (r < 1 - low)  # the bound holds, and the
    above = batch.mask & (advantages > 0) & (r > 1 + high)  # token has no gradient
    terms = dict(loss=token_loss, ratio=r, low=low, high=high, advantages=advantages)
    return mean, terms | dict(clipped_low=below, clipped_high=above)


@functools.partial(jax.jit, static_argnums=0)
def update(setup, params, opt_state, batch, settings):
    """One optimizer update from a mini-batch."""
    # `value_and_grad` makes a function that also returns the gradient in the first
    # argument, here `params`. There is no tape, and no `.backward()`.
    gradient = jax.value_and_grad(loss, has_aux=True)
    (mean, terms), grads = gradient(params, setup, batch, settings)
    changes, opt_state = setup.optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, changes), opt_state, mean, terms


def hapo_step(setup, state, prompts, prompt_lengths, keys, grade, settings):
    """Sample, grade, score, statistics, advantages, updates.

    `state` is (params, opt_state, Stats of the step before); `grade` maps (tokens,
    mask) to rewards. Returns state, Samples, rewards, Batch, (loss, terms) per update.
    """
    params, opt_state, stats = state
    samples = sample(setup, params, prompts, prompt_lengths, keys, stats, settings)
    samples = jax.device_get(samples)  # to NumPy, on the host
    rewards = grade(samples.tokens, samples.mask)

    rows = prompts, prompt_lengths, samples.tokens
    old_logprobs, entropy = score_tokens(setup, params, *rows, settings)
    # Of this batch: for C and D now, and for A in the next step.
    stats = fit_stats(np.asarray(entropy), samples.mask, settings)
    score = entropy_score(entropy, stats, settings)
    advantages = token_group_advantages(rewards, samples.mask, setup.group_size)
    batch = Batch(*rows, samples.mask, old_logprobs, score, advantages)

    updates = []  # from the second on r leaves 1, and C and clipping have work to do
    for first in list(range(0, len(prompts), setup.minibatch_rows)) * setup.passes:
        part = slice(first, first + setup.minibatch_rows)
        minibatch = jax.tree.map(lambda x: x[part], batch)
        params, opt_state, *seen = update(setup, params, opt_state, minibatch, settings)
        updates.append(seen)
    return (params, opt_state, stats), samples, rewards, batch, updates


def show(pieces, samples, batch, terms, row):
    """Prints what each component did to the first tokens of a completion."""
    print("token       H     h̃   A: T  B: A  C: Â     r     D: range  clipped   loss")
    line = "{:6}{:7.4f}{:7.2f}{:7.2f}{:6.2f}{:6.2f}{:6.2f}  {:.2f} … {:.2f}{:>7}{:9.2f}"
    for t in range(min(12, samples.mask[row].sum())):
        x, y = (jax.tree.map(lambda z: z[row, t], z) for z in (samples, terms))
        h, A = batch.score[row, t], batch.advantages[row, t]
        clipped = "low" if y["clipped_low"] else "high" if y["clipped_high"] else "-"
        stages = x.entropy, h, x.temperature, A, y["advantages"], y["ratio"]
        bounds = 1 - y["low"], 1 + y["high"]
        print(line.format(*pieces([x.tokens]), *stages, *bounds, clipped, y["loss"]))


def main(num_steps=6, num_prompts=16, max_tokens=48):
    """Trains the Countdown demo's policy for a few steps and prints what happened."""
    folder = pathlib.Path(__file__).parents[1] / "configs" / "countdown_warm"
    words, config = tokenizer.load(folder), huggingface.load_config(folder)
    config = dataclasses.replace(config, unused_ids=words.unused_ids(config.vocab_size))
    model = nnx.eval_shape(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))
    graphdef, _ = nnx.split(model, nnx.Param)  # the code's part; shapes are enough
    params = huggingface.load_params(folder, config, dtype=jnp.float32)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-4))
    setup = Setup(graphdef, optimizer, words.stop_ids, words.pad_id, max_tokens)
    state, settings = (params, optimizer.init(params), Stats()), Settings()
    game = dict(seed=0, numbers=3, max_number=9, operators="+-*", operations=1)
    problems = countdown.problems("train", size=num_prompts, **game)
    ids = np.repeat(np.arange(num_prompts), setup.group_size)  # [B], the same each step
    prompts = np.array([words.encode(problems[i].prompt) for i in ids], np.int32)
    lengths = np.full(len(ids), prompts.shape[1])  # of this task they are all alike

    def grade(tokens, mask):
        texts = [words.decode(row[kept]) for row, kept in zip(tokens, mask)]
        pairs = zip(texts, [problems[i].answer for i in ids])
        return np.array([countdown.grade(*x).score for x in pairs], np.float32)

    print("step  reward  entropy  temperature  tokens     loss")
    line = "{:4}{:8.3f}{:9.3f}   {:.2f} … {:.2f}{:8.1f}{:9.4f}"
    for step in range(1, num_steps + 1):
        keys = row_keys(0, step, ids, np.arange(len(ids)) % setup.group_size)
        state, samples, rewards, batch, updates = hapo_step(
            setup, state, prompts, lengths, keys, grade, settings
        )
        losses, terms = zip(*jax.device_get(updates))
        H, T = samples.entropy[samples.mask], samples.temperature[samples.mask]
        found = rewards.mean(), H.mean(), T.min(), T.max(), len(H) / len(ids)
        print(line.format(step, *found, np.mean(losses)))

    # Of the last update: the right and the wrong completion with most tokens clipped.
    last, terms = slice(-setup.minibatch_rows, None), terms[-1]
    samples, batch = jax.tree.map(lambda x: x[last], (samples, batch))
    clipped = (terms["clipped_low"] | terms["clipped_high"]).sum(axis=1)
    for kind, sign in (("right", 1), ("wrong", -1)):
        rows = np.flatnonzero((sign * batch.advantages).max(axis=1) > 0)
        if len(rows):
            print(f"\nThe last update, a completion that was {kind}:")
            show(words.pieces, samples, batch, terms, rows[clipped[rows].argmax()])


if __name__ == "__main__":
    main()
