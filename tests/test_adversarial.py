import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from recdiv_core.losses.adversarial import (
    SHARES,
    awp,
    backpropagate,
    fgm,
    fgsm,
    freelb_start,
    passes,
    pgd_step,
)

EPSILON, STEP_SIZE, NUM_STEPS = 0.7, 0.3, 4
GROUPS = torch.tensor([[0, 0, 1, -1], [3, 2, 2, 2], [0, -1, -1, -1]])  # one example in two rows


def draws(seed):
    return torch.Generator().manual_seed(seed)


def random_grad(seed, shape=(3, 4, 5), dtype=torch.float64):
    return torch.randn(shape, generator=draws(seed), dtype=dtype)


def by_example(values, groups=GROUPS):
    """Cut values apart with a loop: example -> its rows, in order."""
    rows = values.flatten(0, -2)
    return {n: rows[groups.flatten() == n] for n in groups.unique().tolist()}


# --- noise --------------------------------------------------------------------------------------


def test_fgm_points_along_each_examples_gradient_with_length_epsilon():
    grad = random_grad(0)
    noise, wanted = by_example(fgm(grad, GROUPS, 4, epsilon=EPSILON)), by_example(grad)
    assert torch.equal(noise.pop(-1), torch.zeros(4, 5).double())
    for example, rows in noise.items():
        along = EPSILON * wanted[example] / torch.linalg.vector_norm(wanted[example])
        torch.testing.assert_close(rows, along)


def test_fgm_is_worse_for_a_linear_loss_than_any_other_noise_of_its_length():
    grad, groups = random_grad(1, (1, 6)), torch.tensor([0])
    worst = (grad * fgm(grad, groups, 1, epsilon=EPSILON)).sum()
    others = F.normalize(random_grad(2, (5000, 6)), dim=1) * EPSILON
    assert (others @ grad[0]).max() < worst


def test_fgsm_is_worse_for_a_linear_loss_than_any_corner_of_the_cube():
    grad, groups = random_grad(3, (1, 6)), torch.tensor([0])
    corners = torch.cartesian_prod(*[torch.tensor([-EPSILON, EPSILON]).double()] * 6)
    worst = (grad * fgsm(grad, groups, 1, epsilon=EPSILON)).sum()
    torch.testing.assert_close((corners @ grad[0]).max(), worst)


def test_fgsm_moves_every_coordinate_by_epsilon_except_at_padding_and_at_0():
    grad = random_grad(4)
    grad[0, 0, 2] = 0.0
    wanted = torch.where(grad > 0, EPSILON, -EPSILON).double()
    wanted[0, 0, 2] = 0.0
    wanted[GROUPS == -1] = 0.0
    torch.testing.assert_close(fgsm(grad, GROUPS, 4, epsilon=EPSILON), wanted)


@pytest.mark.parametrize("attack", [fgm, fgsm])
def test_a_gradient_of_0_gives_no_noise(attack):
    noise = attack(torch.zeros(3, 4, 5), GROUPS, 4, epsilon=EPSILON)
    assert torch.equal(noise, torch.zeros(3, 4, 5))


@pytest.mark.parametrize("attack", [fgm, fgsm])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_gives_its_example_no_noise_and_leaves_others(attack, value):
    whole = random_grad(5)
    broken = whole.clone()
    broken[1, 2, 3] = value
    noise = attack(broken, GROUPS, 4, epsilon=EPSILON)
    wanted = attack(whole, GROUPS, 4, epsilon=EPSILON)
    wanted[GROUPS == 2] = 0.0
    assert torch.equal(noise, wanted)


@pytest.mark.parametrize("attack", [fgm, fgsm])
def test_what_stands_at_padding_does_not_matter(attack):
    grad = random_grad(6)
    wanted = attack(grad, GROUPS, 4, epsilon=EPSILON)
    grad[GROUPS == -1] = math.nan
    assert torch.equal(attack(grad, GROUPS, 4, epsilon=EPSILON), wanted)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-16, 2.0**16, 2.0**100])
def test_a_loss_scale_does_not_change_the_noise_by_a_bit(scale):
    grad = random_grad(7, dtype=torch.float32)
    noise = fgm(grad * scale, GROUPS, 4, epsilon=EPSILON)
    assert torch.equal(noise, fgm(grad, GROUPS, 4, epsilon=EPSILON))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_scaled_gradients_give_wide_noise_of_the_same_direction(dtype):
    grad = random_grad(8, dtype=torch.float32)
    noise = fgm((grad * 8192).to(dtype), GROUPS, 4, epsilon=EPSILON)  # squares leave float16
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise, fgm(grad, GROUPS, 4, epsilon=EPSILON), rtol=0, atol=5e-3)


def test_leading_shapes_do_not_matter():
    grad = random_grad(9)
    flat = fgm(grad.flatten(0, 1), GROUPS.flatten(), 4, epsilon=EPSILON)
    assert torch.equal(fgm(grad, GROUPS, 4, epsilon=EPSILON), flat.view(3, 4, 5))


def test_a_part_without_places_or_examples_has_no_noise():
    empty = torch.zeros(0, dtype=torch.int64)
    assert fgm(torch.zeros(0, 5), empty, 0, epsilon=1.0).shape == (0, 5)
    padding = fgm(torch.ones(2, 5), torch.tensor([-1, -1]), 0, epsilon=1.0)
    assert torch.equal(padding, torch.zeros(2, 5))


def test_a_pgd_step_agrees_with_a_loop_over_examples():
    grad, start = random_grad(10), 0.2 * random_grad(11)
    noise = pgd_step(start, grad, GROUPS, 4, epsilon=EPSILON, step_size=STEP_SIZE)
    grads, starts, found = by_example(grad), by_example(start), by_example(noise)
    assert torch.equal(found.pop(-1), torch.zeros(4, 5).double())
    lengths = []
    for example, rows in found.items():
        moved = starts[example] + STEP_SIZE * grads[example] / grads[example].norm()
        lengths.append(float(moved.norm()))
        torch.testing.assert_close(rows, moved * min(1.0, EPSILON / lengths[-1]))
    assert min(lengths) < EPSILON < max(lengths)  # some stay inside the ball, some are brought back


def test_pgd_from_0_with_a_step_of_epsilon_is_fgm():
    grad = random_grad(12)
    noise = pgd_step(torch.zeros_like(grad), grad, GROUPS, 4, epsilon=EPSILON, step_size=EPSILON)
    torch.testing.assert_close(noise, fgm(grad, GROUPS, 4, epsilon=EPSILON))


def test_pgd_finds_the_worst_point_of_a_ball_for_a_curved_loss():
    curvature = torch.tensor([3.0, 1.0, 0.3]).double()
    noise = torch.full((1, 3), 0.01).double()
    for _ in range(150):
        noise = pgd_step(noise, curvature * noise, torch.tensor([0]), 1, epsilon=2.0, step_size=0.5)
    torch.testing.assert_close(noise, torch.tensor([[2.0, 0.0, 0.0]]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_pgd_step_without_a_usable_gradient_stays(value):
    start = fgm(random_grad(13), GROUPS, 4, epsilon=0.5 * EPSILON)
    grad = torch.full_like(start, value)
    noise = pgd_step(start, grad, GROUPS, 4, epsilon=EPSILON, step_size=STEP_SIZE)
    assert torch.equal(noise, start)


def test_freelb_starts_uniform_inside_the_ball():
    groups = torch.arange(50).repeat_interleave(40)
    start = freelb_start(torch.rand(2000, 5, generator=draws(14)), groups, 50, epsilon=EPSILON)
    lengths = torch.stack([rows.norm() for rows in by_example(start, groups).values()])
    assert start.abs().max() <= EPSILON / math.sqrt(40 * 5)
    assert lengths.max() < EPSILON
    assert lengths.mean() == pytest.approx(EPSILON / math.sqrt(3), rel=0.01)


def test_freelb_starts_at_draws_scaled_by_the_size_of_each_example():
    uniform = torch.rand(3, 4, 5, generator=draws(15), dtype=torch.float64)
    start = freelb_start(uniform, GROUPS, 4, epsilon=EPSILON)
    size = torch.tensor([[15, 15, 5, 1], [5, 15, 15, 15], [15, 1, 1, 1]]).double()
    wanted = EPSILON * (2 * uniform - 1) / size.sqrt()[..., None]
    wanted[GROUPS == -1] = 0.0
    torch.testing.assert_close(start, wanted)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(3, 4, 5\) and groups \(4,\)"):
        fgm(torch.zeros(3, 4, 5), torch.zeros(4, dtype=torch.int64), 1, epsilon=1.0)
    with pytest.raises(ValueError, match="epsilon=-1"):
        fgsm(torch.zeros(1, 5), torch.tensor([0]), 1, epsilon=-1.0)
    zeros = torch.zeros(1, 5)
    with pytest.raises(ValueError, match="step_size=nan"):
        pgd_step(zeros, zeros, torch.tensor([0]), 1, epsilon=1.0, step_size=math.nan)


# --- passes -------------------------------------------------------------------------------------

HISTORIES = [[1, 2, 3], [4], [5, 6], [2, 2, 7, 1], [0, 3], [6, 5, 4]]
TARGETS = [4, 0, 7, 3, 1, 2]
WIDTH, NUM_ITEMS, DIM = 4, 8, 6
DRAWS_WD = torch.rand(WIDTH, DIM, generator=draws(16))  # by place in a history: the same in a part
ATTACKS = ["fgm", "fgsm", "pgd", "freelb"]


class Toy(nn.Module):
    """Histories, packed or not, to the scores of all items: means of a curved layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251
            self.items = nn.Embedding(NUM_ITEMS, DIM)
            self.layer = nn.Linear(DIM, DIM)

    def forward(self, items_P, group_P, num_groups, noise_PD):
        hidden = torch.tanh(self.layer(self.items(items_P) + noise_PD)).flatten(0, -2)
        is_place = group_P.flatten() >= 0
        pooled = torch.zeros(num_groups, DIM).index_add(
            0, group_P.flatten()[is_place], hidden[is_place]
        )
        return pooled @ self.items.weight.T


def nats(scores_NV, targets):
    return F.cross_entropy(scores_NV, torch.tensor(targets), reduction="sum") / len(HISTORIES)


def spread(scores_NV):
    return scores_NV.softmax(1).square().sum() / len(HISTORIES)


def packed(histories):
    """Put two histories into a row, as the batches of training do."""
    width = 2 * WIDTH
    items = torch.zeros((len(histories) + 1) // 2, width, dtype=torch.int64)
    group, place = torch.full_like(items, -1), torch.zeros_like(items)
    for n, history in enumerate(histories):
        columns = slice(n % 2 * WIDTH, n % 2 * WIDTH + len(history))
        items[n // 2, columns] = torch.tensor(history)
        group[n // 2, columns] = n
        place[n // 2, columns] = torch.arange(len(history))
    return items, group, place


def train(model, *parts, kind, ascent=None, scale=1.0, seen=None):
    """Form the gradients of a step: what train_step does, on a toy. Parts are slices of users."""
    model.zero_grad()
    is_distributed = isinstance(model, DistributedDataParallel)
    for part in parts:
        items, group, place = packed(HISTORIES[part])
        num_groups = len(HISTORIES[part])
        start = torch.zeros(*items.shape, DIM)
        if kind == "freelb":
            start = freelb_start(DRAWS_WD[place], group, num_groups, epsilon=EPSILON)
        for attack in passes(
            kind,
            start,
            group,
            num_groups,
            epsilon=EPSILON,
            step_size=STEP_SIZE,
            num_steps=NUM_STEPS,
        ):
            synchronises = attack.is_last and part is parts[-1]
            wait = is_distributed and not synchronises
            with model.no_sync() if wait else contextlib.nullcontext():
                scores = model(items, group, num_groups, attack.noise_PD)
                loss = nats(scores, TARGETS[part]) * scale
                backpropagate(attack, loss, None if ascent is None else ascent(scores) * scale)
            if seen is not None:
                seen.append((attack, gradients(model)))
    return gradients(model)


def gradients(model):
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


WHOLE, FRONT, BACK = slice(0, 6), slice(0, 2), slice(2, 6)


def unit(grad):
    return grad / grad.norm()


def slow_noises(kind, slope, size, place):
    """List the noises of one example's passes, each with its share in the training."""
    zero = torch.zeros(size, DIM)
    if kind == "fgm":
        return [(zero, 0.5), (EPSILON * unit(slope(zero)), 0.5)]
    if kind == "fgsm":
        return [(zero, 0.5), (EPSILON * slope(zero).sign(), 0.5)]
    start = EPSILON * (2 * DRAWS_WD[place] - 1) / math.sqrt(size * DIM)
    noises = [zero if kind == "pgd" else start]
    for _ in range(NUM_STEPS if kind == "pgd" else NUM_STEPS - 1):
        moved = noises[-1] + STEP_SIZE * unit(slope(noises[-1]))
        noises.append(moved if moved.norm() <= EPSILON else EPSILON * unit(moved))
    if kind == "pgd":
        return [(noises[0], 0.5), (noises[-1], 0.5)]
    return [(noise, 1 / NUM_STEPS) for noise in noises]


def slow_gradients(kind, ascended):
    """Attack one user after another, unpacked, and add up the gradients."""
    model = Toy()
    for history, target in zip(HISTORIES, TARGETS, strict=True):
        items, group = torch.tensor(history), torch.zeros(len(history), dtype=torch.int64)

        def scores(noise, items=items, group=group):
            return model(items, group, 1, noise)

        def slope(noise, target=target, scores=scores):
            noise = noise.clone().requires_grad_()
            return torch.autograd.grad(ascended(scores(noise), [target]), noise)[0]

        for noise, share in slow_noises(kind, slope, len(history), torch.arange(len(history))):
            (share * nats(scores(noise), [target])).backward()
    return gradients(model)


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("parts", [(WHOLE,), (FRONT, BACK)], ids=["one part", "two parts"])
def test_gradients_are_those_of_attacking_one_user_after_another(kind, parts):
    torch.testing.assert_close(train(Toy(), *parts, kind=kind), slow_gradients(kind, nats))


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("parts", [(WHOLE,), (FRONT, BACK)], ids=["one part", "two parts"])
def test_noise_may_climb_another_scalar_than_the_one_that_trains(kind, parts):
    found = train(Toy(), *parts, kind=kind, ascent=spread)
    torch.testing.assert_close(found, slow_gradients(kind, lambda scores, _: spread(scores)))


@pytest.mark.parametrize("kind", ["none", "awp"])
def test_without_noise_the_gradients_are_plain_to_the_bit(kind):
    model = Toy()
    items, group, _ = packed(HISTORIES)
    nats(model(items, group, 6, torch.zeros(*items.shape, DIM)), TARGETS).backward()
    assert_same_bits(train(Toy(), WHOLE, kind=kind), gradients(model))


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("ascent", [None, spread], ids=["loss", "other"])
def test_a_loss_scale_scales_the_gradients_and_leaves_the_noise(kind, ascent):
    scaled = train(Toy(), WHOLE, kind=kind, ascent=ascent, scale=1024.0)
    plain = train(Toy(), WHOLE, kind=kind, ascent=ascent)
    assert_same_bits({name: grad / 1024 for name, grad in scaled.items()}, plain)


@pytest.mark.parametrize("kind", ATTACKS)
def test_noise_of_length_0_leaves_the_gradient_of_plain_training(kind):
    model = Toy()
    items, group, _ = packed(HISTORIES)
    zero = torch.zeros(*items.shape, DIM)
    for attack in passes(kind, zero, group, 6, epsilon=0.0, step_size=0.3, num_steps=NUM_STEPS):
        backpropagate(attack, nats(model(items, group, 6, attack.noise_PD), TARGETS))
    torch.testing.assert_close(gradients(model), train(Toy(), WHOLE, kind="none"))


@pytest.mark.parametrize("kind", ATTACKS)
def test_later_passes_of_the_same_part_have_a_higher_loss(kind):
    model = Toy()
    items, group, _ = packed(HISTORIES)
    losses = []
    zero = torch.zeros(*items.shape, DIM)
    for attack in passes(kind, zero, group, 6, epsilon=0.1, step_size=0.03, num_steps=NUM_STEPS):
        loss = nats(model(items, group, 6, attack.noise_PD), TARGETS)
        losses.append(loss.item())
        backpropagate(attack, loss)
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


@pytest.mark.parametrize("ascent", [None, spread], ids=["loss", "other"])
def test_passes_of_share_0_do_not_reach_the_parameters(ascent):
    seen = []
    train(Toy(), WHOLE, kind="pgd", ascent=ascent, seen=seen)
    assert [attack.share for attack, _ in seen] == [0.5, 0, 0, 0, 0.5]
    (_, clean), *inner, _ = seen
    for _, after in inner:
        assert_same_bits(after, clean)


@pytest.mark.parametrize(
    ("kind", "cost"), {"none": 1, "fgm": 2, "fgsm": 2, "pgd": 4, "freelb": 3, "awp": 1}.items()
)
def test_the_table_gives_the_cost_and_shares_that_sum_to_1(kind, cost):
    assert len(SHARES[kind](3)) == cost
    assert sum(SHARES[kind](3)) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", SHARES)
def test_one_pass_is_the_first_one_the_last_and_only_the_last_needs_no_gradient(kind):
    seen = []
    train(Toy(), WHOLE, kind=kind, seen=seen)
    marks = [(a.is_first, a.is_last, a.noise_PD.requires_grad) for a, _ in seen]
    places = range(len(SHARES[kind](NUM_STEPS)))
    last = places[-1]
    assert marks == [(place == 0, place == last, place != last) for place in places]


def test_a_model_that_is_not_handed_the_noise_is_found_out():
    table = torch.ones(1, 5, requires_grad=True)
    attacks = passes("fgm", table, torch.tensor([0]), 1, epsilon=1.0, step_size=1.0, num_steps=1)
    backpropagate(next(attacks), table.sum())
    with pytest.raises(ValueError, match="did not reach the noise"):
        next(attacks)


@pytest.mark.parametrize(("kind", "num_steps"), [("fgn", 1), ("pgd", 0)])
def test_an_unknown_kind_or_no_steps_are_named(kind, num_steps):
    zero, groups = torch.zeros(1, 5), torch.tensor([0])
    with pytest.raises(ValueError, match=f"loss.adversarial={kind}.*allowed are none, fgm"):
        next(passes(kind, zero, groups, 1, epsilon=1.0, step_size=1.0, num_steps=num_steps))


@pytest.fixture(scope="module")
def alone():
    """Wrap models in DDP on a world of one rank: a reducer that minds what it is told."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(wrap=DistributedDataParallel)
    dist.destroy_process_group()


@pytest.mark.parametrize("ascent", [None, spread], ids=["loss", "other"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_the_reducer_of_ddp_takes_every_step(alone, kind, ascent):
    model = alone.wrap(Toy())
    wanted = train(Toy(), FRONT, BACK, kind=kind, ascent=ascent)
    for _ in range(2):
        found = train(model, FRONT, BACK, kind=kind, ascent=ascent)
    torch.testing.assert_close({name[len("module.") :]: g for name, g in found.items()}, wanted)


# --- weights ------------------------------------------------------------------------------------


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_awp_moves_each_matrix_along_its_gradient_relative_to_its_length():
    model = Toy()
    grads, before = train(model, WHOLE, kind="awp"), weights(model)
    with awp(dict(model.named_parameters()), grads, gamma=0.01):
        inside = weights(model)
    for name in ("items.weight", "layer.weight"):
        move = 0.01 * before[name].norm() * grads[name] / grads[name].norm()
        torch.testing.assert_close(inside[name], before[name] + move)
    assert torch.equal(inside["layer.bias"], before["layer.bias"])


def test_awp_raises_the_loss_inside_and_restores_every_bit():
    model = Toy()
    items, group, _ = packed(HISTORIES)
    zero = torch.zeros(*items.shape, DIM)
    grads, before = train(model, WHOLE, kind="awp"), weights(model)
    clean = nats(model(items, group, 6, zero), TARGETS)
    with awp(dict(model.named_parameters()), grads, gamma=0.05):
        assert nats(model(items, group, 6, zero), TARGETS) > clean
    assert_same_bits(weights(model), before)


def test_awp_restores_every_bit_after_an_exception():
    model = Toy()
    grads, before = train(model, WHOLE, kind="awp"), weights(model)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        awp(dict(model.named_parameters()), grads, gamma=0.05),
    ):
        raise RuntimeError("out of memory")
    assert_same_bits(weights(model), before)


def test_awp_does_not_depend_on_the_loss_scale():
    model = Toy()
    grads = train(model, WHOLE, kind="awp")
    inside = []
    for scale in (1.0, 65536.0):
        scaled = {name: grad * scale for name, grad in grads.items()}
        with awp(dict(model.named_parameters()), scaled, gamma=0.05):
            inside.append(weights(model))
    assert_same_bits(*inside)


def test_a_step_of_awp_in_parts_is_the_step_of_the_whole():
    found = []
    for parts in ((WHOLE,), (FRONT, BACK)):
        model = Toy()
        grads = train(model, *parts, kind="awp")
        with awp(dict(model.named_parameters()), grads, gamma=0.05):
            found.append(train(model, *parts, kind="awp"))
        assert_same_bits(weights(model), weights(Toy()))
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0]["layer.weight"], grads["layer.weight"])


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_awp_moves_nothing_along_a_gradient_that_is_not_usable(value):
    model = Toy()
    grads, before = train(model, WHOLE, kind="awp"), weights(model)
    grads["layer.weight"].zero_()
    grads["layer.weight"][2, 3] = value
    with awp(dict(model.named_parameters()), grads, gamma=0.05):
        assert torch.equal(model.layer.weight, before["layer.weight"])
        assert not torch.equal(model.items.weight, before["items.weight"])


def test_awp_leaves_matrices_of_zeros_and_those_without_a_gradient():
    model = Toy()
    with torch.no_grad():
        model.items.weight.zero_()
    before = weights(model)
    with awp(
        dict(model.named_parameters()), {"items.weight": torch.ones(NUM_ITEMS, DIM)}, gamma=0.1
    ):
        assert_same_bits(weights(model), before)


def test_awp_names_gradients_of_no_parameter():
    with (
        pytest.raises(ValueError, match=r"gradients of layer\.wait"),
        awp({"layer.weight": torch.ones(1, 1)}, {"layer.wait": torch.ones(1, 1)}, gamma=0.1),
    ):
        pass
