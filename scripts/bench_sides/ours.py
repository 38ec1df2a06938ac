"""dinojax's side of the bench, with the functions that the commands call."""

import time
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from dinojax import startup
from dinojax.config import TrainConfig
from dinojax.presets import PRESETS

from bench_sides.work import (
    BATCH_SIZE,
    BFLOAT16,
    EXERCISE,
    LEARNING_RATE,
    MAX_LENGTH,
    NUM_NAMES,
    OURS,
    PADDED,
    PRODUCT_SIZE,
    WINDOW,
    WORKS,
    Prepared,
    Round,
    Task,
    mean_of,
    network_of,
    read_data,
    repeated,
    text,
    trained_params,
)

NUM_EPOCHS_HANDED_OVER = 20


def prepare(task: Task) -> Prepared:
    """Compile the functions of a work."""
    if not task.work.startswith("train"):
        # As many devices as the command uses.
        startup.start_jax(startup.num_cores() if task.work.startswith("sample") else 1)
    kind = task.work.split()[0]
    return {"train": training, "sample": sampling, "score": scoring, "multiply": multiplying}[kind](
        task
    )


def training(task: Task) -> Prepared:
    """Train as the command does, on as many devices as it uses."""
    work = WORKS[task.work]
    network = network_of(work, task.side, task.is_tiny)
    is_exercise = network == EXERCISE
    config = TrainConfig(
        cell=network.cell,
        num_layers=network.num_layers,
        hidden_size=network.hidden_size,
        dtype="bfloat16" if task.side == BFLOAT16 else "float32",
        batch_size=1 if is_exercise else BATCH_SIZE,
        batches="padded" if is_exercise or task.side == PADDED else "packed",
        loss="summed" if is_exercise else "mean",
    )
    startup.start_jax(startup.best_share(config.batch_size, startup.num_cores()))

    import jax
    import optax

    from dinojax import parallel
    from dinojax.data import batches
    from dinojax.runs.description import build_model
    from dinojax.training import loop, optimizers, step
    from dinojax.training.loss import mean_cross_entropy, summed_cross_entropy

    if work.is_text:
        ids, vocab = text()
        characters = np.array(list(vocab.characters))
        window = WINDOW if task.is_tiny else work.window
        dataset = batches.windows("".join(characters[ids]), vocab, BATCH_SIZE, window)
    else:
        names, vocab = read_data(task)
        if is_exercise:
            dataset = batches.padded(names, vocab)
        elif task.side == PADDED:
            dataset = batches.padded(repeated(names, NUM_NAMES), vocab, BATCH_SIZE)
        else:
            dataset = batches.packed(repeated(names, NUM_NAMES), vocab, BATCH_SIZE, WINDOW)
    model = build_model(config, vocab)
    recipe = PRESETS["dinos"]
    optimizer = (
        optimizers.clipped_sgd(recipe.learning_rate, recipe.clip_value)
        if is_exercise
        else optax.adam(LEARNING_RATE)
    )
    # There may be fewer GPUs than cores.
    num_devices = startup.best_share(config.batch_size, jax.device_count())
    mesh = parallel.make_mesh(num_devices)
    train_step = step.make_train_step(
        model,
        optimizer,
        summed_cross_entropy if is_exercise else mean_cross_entropy,
        carry_state=work.is_text,
        resets=config.batches == "packed",
        axis=parallel.axis_of(mesh),
    )
    key_params, key_train = jax.random.split(jax.random.key(0))
    params = model.init(key_params)
    if task.side == OURS:
        hand_over(task, params, key_train, dataset.num_shuffled)
    state = step.init_train_state(key_train, params, model, optimizer, batch_size=config.batch_size)
    started = time.perf_counter()
    progress = loop.run(train_step, state, dataset, steps=10**9, mesh=mesh)
    losses = next(progress).losses.tolist()
    seconds = time.perf_counter() - started
    # Each call trains for more steps than the last, up to a limit.
    size, has_grown = 0, not task.is_tiny
    while has_grown:
        new = next(progress).losses.tolist()
        losses += new
        size, has_grown = len(new), len(new) > size

    def do_round() -> Round:
        started, steps, characters = time.perf_counter(), 0, 0.0
        while steps < task.amount:
            done = next(progress)
            losses.extend(done.losses.tolist())
            steps += len(done.losses)
            characters += float(done.num_characters.sum())
        seconds = time.perf_counter() - started
        amount = steps if is_exercise else characters
        return Round(seconds, amount, characters, mean_of(losses, task.compared))

    return seconds, do_round


def hand_over(task: Task, params: Any, key: Any, num_shuffled: int) -> None:
    """Save the initial parameters and the order of the names for the other sides."""
    import jax

    from dinojax.training import step

    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    orders = [
        np.asarray(step.epoch_order(key, epoch, num_shuffled))
        for epoch in range(NUM_EPOCHS_HANDED_OVER)
    ]
    np.savez(task.handed_over, allow_pickle=False, order=np.concatenate(orders), **arrays)


def loaded_model(task: Task) -> tuple[Any, Any, Any, list[str]]:
    """The model of the run, its parameters and vocabulary, and the names."""
    from dinojax.runs.description import build_model

    names, vocab = read_data(task)
    return build_model(PRESETS["dinos"], vocab), trained_params(task), vocab, names


def sampling(task: Task) -> Prepared:
    """Sample names, one after the other, a thousand at once, or as a stream."""
    import jax

    from dinojax import parallel
    from dinojax.sampling.draw import sample_names
    from dinojax.sampling.stream import on_each_device, stream_names

    model, params, vocab, _ = loaded_model(task)
    is_stream = task.work == "sample many names"
    num = {"sample one name": 1, "sample 1,000 names": 1_000}.get(task.work, task.amount)
    num = min(num, task.amount)
    mesh = parallel.make_mesh(jax.device_count())
    num_devices = jax.device_count()

    def write_share(key: Any, params: Any) -> Any:
        return stream_names(key, params, model, -(-num // num_devices), MAX_LENGTH)

    @jax.jit
    def write(key: Any, params: Any) -> Any:
        if is_stream:
            samples = on_each_device(jax.random.split(key, num_devices), write_share, mesh, params)
        else:
            samples = sample_names(key, params, model, num, MAX_LENGTH)
        return samples._replace(ids=samples.ids.astype(vocab.dtype))

    params = jax.device_put(params)
    keys = map(partial(jax.random.fold_in, jax.random.key(0)), count())
    started = time.perf_counter()
    jax.block_until_ready(write(next(keys), params))
    seconds = time.perf_counter() - started

    def do_round() -> Round:
        round_keys = [next(keys) for _ in range(task.amount // num)]
        started = time.perf_counter()
        # On the CPU, np.asarray costs less than jax.device_get.
        samples = [jax.tree.map(np.asarray, write(key, params)) for key in round_keys]
        seconds = time.perf_counter() - started
        lengths = np.concatenate([each.lengths for each in samples])
        characters = float(lengths.sum()) + len(lengths)
        amount = characters if is_stream else float(len(lengths))
        return Round(seconds, amount, characters, float(lengths.mean()))

    return seconds, do_round


def scoring(task: Task) -> Prepared:
    """Compute the log-probability of names."""
    import jax

    from dinojax.data.batches import pad_names
    from dinojax.evaluation.losses import nats_per_column

    model, params, vocab, names = loaded_model(task)
    examples = pad_names(repeated(names, task.amount), vocab)
    read = jax.jit(lambda params, examples: nats_per_column(params, model, examples))
    started = time.perf_counter()
    jax.block_until_ready(read(params, examples))
    seconds = time.perf_counter() - started
    characters = float(examples.weights.sum())

    def do_round() -> Round:
        started = time.perf_counter()
        nats = np.asarray(read(params, examples))
        seconds = time.perf_counter() - started
        return Round(seconds, task.amount, characters, float(nats.mean()))

    return seconds, do_round


def multiplying(task: Task) -> Prepared:
    """Multiply large matrices, which shows the peak rate of the machine."""
    import jax
    import jax.numpy as jnp

    size = PRODUCT_SIZE
    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    started = time.perf_counter()
    product(matrix, matrix).block_until_ready()
    seconds = time.perf_counter() - started

    def do_round() -> Round:
        started = time.perf_counter()
        for _ in range(task.amount):
            product(matrix, matrix).block_until_ready()
        seconds = time.perf_counter() - started
        return Round(seconds, 2.0 * size**3 * task.amount, 0.0, float(size))

    return seconds, do_round
