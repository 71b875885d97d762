"""Every setting with its default and its unit.

An experiment file in `configs/` starts from `default()`, changes what it needs, applies
a method (`presets.py`) and returns the config. `arguments.py` then sets what the
command line says, `resolution.py` fills in what follows from other settings, and
`check.py` refuses what cannot work.
"""

from ml_collections import ConfigDict, config_dict

from hapo_jax.algo import settings


def default() -> ConfigDict:
    """The config that every experiment starts from. `task` is the experiment's own."""
    c = ConfigDict()
    # The label of the run. `apply_method` sets it together with the settings that it
    # stands for, and notes in `settings_of` that it has.
    c.method = "hapo"
    c.settings_of = "hapo"
    c.seed = 0
    c.num_steps = 100  # steps: a rollout and the updates from it. All `_steps` count so
    # The run ends before that with the step by which it has sampled so many tokens,
    # those that nobody trains on included; 0: never. Methods compare over it.
    c.max_sampled_tokens = 0

    c.task = ConfigDict()
    c.task.name = ""  # a name of tasks.TASKS
    # Options of the task's `problems`; of files: path, columns, …, see docs/data.md.
    c.task.train = ConfigDict()  # for training …
    c.task.test = ConfigDict()  # … and for evaluation
    # Options of the task's `demonstrations`, if some are imitated beside the rollout.
    c.task.demonstrations = ConfigDict()
    c.task.chat_template = "auto"  # auto | chat | plain
    # Variables of the chat template, such as enable_thinking (Qwen3). Prompts that name
    # a day need it as date_string, "26 Jul 2024" or "2024-07-26".
    c.task.template_options = ConfigDict()
    # A system message before each prompt: of `problem` rows, and of rows whose own
    # messages have none. "": none, and what the template itself puts there.
    c.task.system_prompt = ""

    c.data = ConfigDict()
    c.data.on_error = "stop"  # stop | skip (and count) rows of a file that are broken
    # Training problems to leave out: JSON files of ids or flags, joined by commas, each
    # perhaps with the flags that count, as in "flags.json:broken_ids+chinese_ids".
    c.data.exclude_ids = ""
    # In which training problems come: shuffled | semantic_entropy, from those that the
    # first policy answers alike to the others; see evaluation/curriculum.py.
    c.data.order = "shuffled"
    c.data.curriculum = ConfigDict()
    c.data.curriculum.samples = 0  # per problem, M; must be given for that order
    c.data.curriculum.stages = 0  # N; must be given for that order
    c.data.curriculum.per_token = True  # probabilities of completions; False: whole

    c.model = ConfigDict()
    c.model.path = ""  # Hugging Face folder: config.json, *.safetensors, tokenizer
    # Fields of a config.json, for hapo-plan where there is no folder.
    c.model.sizes = ConfigDict()
    c.model.dtype = "auto"  # compute: float32 | bfloat16 | auto (float32 on CPU)
    c.model.stop_tokens = ()  # further stop tokens, as strings

    c.mesh = ConfigDict()
    c.mesh.data = -1  # -1: all devices that are left
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    c.mesh.cpu_devices = 1  # devices to simulate on a CPU, so as to use its cores

    c.rollout = ConfigDict()
    c.rollout.batch_prompts = 32  # groups in a training batch
    c.rollout.round_prompts = 0  # prompts sampled at a time; 0: batch_prompts
    c.rollout.group_size = 8  # completions per prompt, G
    c.rollout.max_prompt_tokens = 256
    c.rollout.overlong_prompts = "drop"  # drop | truncate (on the left)
    c.rollout.max_completion_tokens = 256  # stop token included
    c.rollout.chunk_tokens = 16  # decode steps between looks at what has finished
    c.rollout.slots = 0  # completions that decode together; 0: as many as fit
    # Of a device's memory, for the slots; 0: what training state and weights leave, on
    # a CPU 0.3.
    c.rollout.memory_fraction = 0.0
    c.rollout.share_prompts_from = 256  # prompt tokens from which a group's rows share
    c.rollout.base_temperature = 1.0
    c.rollout.top_k = 0  # 0: off
    c.rollout.top_p = 1.0  # 1: off
    c.rollout.min_p = 0.0  # 0: off
    # What to do about tokens that are cut off by these three where the learner's
    # ratios are of the whole vocabulary (algo.ratio_of='base') and algo.importance
    # does not correct them: they are off. refuse | accept
    c.rollout.off_policy = "refuse"
    # One more completion of each prompt, greedy, whose reward is a baseline (ReMax).
    c.rollout.greedy_baseline = False
    # A second rollout of some of a step's prompts, whose better completions are added
    # to the loss (AEPO); see rollout/second.py.
    c.rollout.second = ConfigDict()
    c.rollout.second.share = 0.0  # of the batch's prompts; 0: off
    c.rollout.second.entropy_target = 0.5  # nats per token
    c.rollout.second.high_temperature = 1.2  # at or below the target …
    c.rollout.second.low_temperature = 0.8  # … and above it, where half is kept
    c.rollout.second.most_rows = 60  # completions that are kept
    c.rollout.second.least_advantage = 0.05  # which theirs exceed
    # Guided error correction of wrong completions (EDGE-GRPO); see
    # rollout/correction.py. max_completion_tokens holds a completion with its own.
    c.rollout.correction = ConfigDict()
    c.rollout.correction.share = 0.0  # of them; 0: off
    c.rollout.correction.extend = 0.5  # share of these that the policy continues
    c.rollout.correction.new_tokens = 256  # that it may draw then
    c.rollout.correction.below_prompt_tokens = 256  # for shorter prompts alone
    # Fields of the reference solutions in task.train's files, as `columns` of its
    # demonstrations; empty to guess.
    c.rollout.correction.columns = ""
    c.rollout.dynamic_sampling = True  # replace groups whose scores are all equal
    c.rollout.max_rounds = 4  # then train on the groups there are

    c.reward = ConfigDict()  # the sum of the parts correctness, format and overlong
    c.reward.correct = 1.0  # correctness of a right completion …
    c.reward.wrong = 0.0  # … and of a wrong one; -1 is DAPO's code
    c.reward.format_weight = 0.0  # for an answer that can be read; 0: off
    # Length of the penalty's slope. 0: overlong_buffer_share of max_completion_tokens,
    # which is off where that is 0 too.
    c.reward.overlong_buffer_tokens = 0
    c.reward.overlong_buffer_share = 0.0
    c.reward.overlong_factor = 1.0  # penalty at max_completion_tokens

    c.grading = ConfigDict()
    c.grading.workers = 0  # processes; 0: one per core that this process may use
    c.grading.timeout_s = 10.0  # wall clock per completion
    c.grading.memory_gib = 4.0  # per process
    c.grading.start_timeout_s = 120.0  # for a process to start and import its grader

    c.algo = ConfigDict(settings.defaults())  # HAPO; see algo/settings.py

    c.learner = ConfigDict()
    c.learner.minibatch_prompts = 16  # groups per optimizer update
    c.learner.passes = 1  # over the batch; 0: sample and record, learn nothing
    # By a forward pass. False: those that the sampler recorded, which spares the pass;
    # ratios then correct for what sampler and learner round differently, and for the
    # policies of earlier steps that drew groups which were carried over.
    c.learner.recompute_old_logprobs = True
    c.learner.packing = True  # several sequences in a row; False: one, padded
    # A prompt once for its group, where that saves rows: on | off | auto, which is off
    # without packing and for TPUs, whose attention kernel knows sequences in a row and
    # not sequences that branch.
    c.learner.share_prompts = "auto"
    c.learner.row_tokens = 0  # width of a row; 0: longest prompt + completion
    # Rows per gradient accumulation, over all devices; 0: about 1024 tokens per device
    # on a CPU, elsewhere as many as fit, up to 8192.
    c.learner.micro_rows = 0
    # Tokens per device whose logits exist at a time; 0: 128 MiB of them on a CPU,
    # elsewhere 1/32 of the memory, up to 4096 tokens.
    c.learner.chunk_tokens = 0
    # Made again in the backward pass: none | dots (all but weight products) | full |
    # auto, which is dots where that fits.
    c.learner.remat = "auto"
    c.learner.peak_tflops = 0.0  # per device, for perf/mfu; 0: known or measured
    c.learner.learning_rate = 1e-6  # the peak
    # The rate rises over the updates of `warmup_steps`, falls as `schedule` says
    # (constant | cosine | linear) over those of `decay_steps`, and then stays at
    # `final_share` of the peak.
    c.learner.warmup_steps = 10
    c.learner.schedule = "constant"
    c.learner.decay_steps = 0  # 0: until the end of the run
    c.learner.final_share = 0.0
    # adam | optimistic_adam | optimistic_adagrad; see learner/optimizer.py. Adam and
    # optimistic AdaGrad keep two numbers per parameter, optimistic Adam three.
    c.learner.optimizer = "adam"
    c.learner.b1 = 0.9  # of Adam, as b2
    c.learner.b2 = 0.999
    c.learner.eps = 1e-8
    c.learner.weight_decay = 0.1
    c.learner.max_grad_norm = 1.0
    c.learner.max_skipped = 5  # non-finite updates in a row before the run stops

    c.eval = ConfigDict()
    c.eval.every_steps = 50  # 0: only at the end
    c.eval.at_start = True
    c.eval.num_problems = 256  # of the test split; 0: all
    c.eval.k = 8  # completions per problem
    c.eval.temperature = 1.0
    c.eval.top_p = 1.0
    c.eval.greedy = True  # one more, greedy, completion per problem
    # As hapo-eval's --sets, such as "DATA/aime24,DATA/amc23"; "": task.test alone. In
    # training the first is what best checkpoints and curves go by.
    c.eval.sets = ""

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 20
    c.checkpoint.keep_latest = 2
    c.checkpoint.keep_best = 1  # by avg@k; of each protocol that the run evaluates by
    c.checkpoint.export_hf = True  # write <workdir>/hf at the end

    c.log = ConfigDict()
    # Groups per record in rollouts/; all: each of a step, and in batches/ all that the
    # step can be replayed from.
    c.log.record_groups = config_dict.FieldReference(1, field_type=object)
    c.log.record_every_steps = 10
    c.log.doctor_every_steps = 10  # steps between two looks of the run doctor
    c.log.record_gib = 10.0  # what records of all groups may take in the whole run
    c.log.tensorboard = True  # event files in tensorboard/
    c.log.wandb = ""  # a project of Weights & Biases that gets the same; empty: none
    # Without any progress, compiling included, after which the process ends with all
    # stacks printed; 0: never.
    c.log.watchdog_s = 3600.0
    return c


def default_sft() -> ConfigDict:
    """The config that every supervised fine-tuning run starts from."""
    full = default()
    c = ConfigDict()
    c.seed = 0
    c.num_steps = 1000  # optimizer updates

    c.task = ConfigDict()
    c.task.name = ""  # a task with `demonstrations`
    c.task.train = ConfigDict()  # options of the task's `demonstrations` …
    c.task.test = ConfigDict()  # … and those of the held-out ones
    c.task.words = ConfigDict()  # options of the task's `words`, if model.path is empty
    c.task.chat_template = "auto"  # auto | chat | plain
    c.task.template_options = ConfigDict()  # variables of the chat template
    c.task.system_prompt = ""  # a system message before each prompt

    c.model = full.model
    c.model.init = ConfigDict()  # config.json of a new model, if model.path is empty

    c.mesh = full.mesh
    # What a token weighs: a name of algo/supervised.py, and its options.
    c.loss = ConfigDict({"name": "uniform"})
    c.max_prompt_tokens = 256  # longer prompts are an error
    c.max_completion_tokens = 256  # end token included; longer ones are an error

    c.learner = full.learner
    for key in ("minibatch_prompts", "passes", "recompute_old_logprobs"):
        del c.learner[key]
    c.learner.batch_rows = 64  # demonstrations per update

    c.eval = ConfigDict()
    c.eval.every_steps = 250  # 0: only at the end

    c.checkpoint = full.checkpoint
    for key in ("keep_best", "export_hf"):  # the end is what counts, and is exported
        del c.checkpoint[key]
    c.checkpoint.every_steps = 250
    c.log = ConfigDict()
    c.log.every_steps = 10
    c.log.tensorboard = True  # this and the others: see above
    c.log.wandb = ""
    c.log.watchdog_s = 3600.0
    return c


def default_like(config: ConfigDict) -> ConfigDict:
    """The defaults of a config's kind."""
    return default() if "rollout" in config else default_sft()
