"""Operations, bytes and collectives of a compiled program, loops counted as they run.

XLA's own cost analysis counts the body of a loop once. `count` walks the program's text
and multiplies every body by its trip count: from the condition where it is a constant,
and from the caller's list where it depends on the data. Everything is per device.
"""

import dataclasses
import math
import re

import numpy as np

from hapo_jax.planning import hlo
from hapo_jax.planning.hlo import Array, Computation, Instruction

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# They name, order or wait; they move nothing.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "iota",
}
_FREE_CALLS = (
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "ConcatBitcast",
    "GatherScatterIndicesBitpacked",
)
# Products of [queries, channels] and [channels, keys], or the like, in each kernel of
# splash attention; the second makes the gradients of queries, keys and values.
_KERNEL_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}


@dataclasses.dataclass
class Collective:
    """Collectives of one kind, result and group; per device and call of the program.

    Attributes:
      kind: one of `COLLECTIVES`.
      result: its largest array, such as "bf16[4,1024]".
      group: devices that take part.
      times: how often it runs.
      nbytes: of the whole arrays, over all times.
      wire_bytes: that each device sends, as a ring does it.
      where: the operation that it came from.
    """

    kind: str
    result: str
    group: int
    times: float
    nbytes: float
    wire_bytes: float
    where: str


@dataclasses.dataclass
class Counts:
    """What a call of the program does on each device.

    Attributes:
      flops: of products of matrices, attention kernels among them.
      nbytes: read from and written to memory; caches in the chip are free, and kernels
        count each of their arrays once.
      collectives: sorted, the most bytes on the wire first.
      unknown: kernels whose operations are not counted.
      assumed_loops: loops whose trip count came from the caller.
    """

    flops: float = 0.0
    nbytes: float = 0.0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown: set[str] = dataclasses.field(default_factory=set)
    assumed_loops: int = 0


def count(text: str, trips: tuple[int, ...] = ()) -> Counts:
    """Counts a call of a compiled program.

    Args:
      text: `compiled.as_text()`.
      trips: of loops whose length depends on the data: of those outside all such loops,
        of those inside one, and so on.

    Raises:
      ValueError: such loops are nested deeper than `trips` says.
    """
    walker = _Walker(*hlo.parse(text), trips)
    walker.walk(walker.entry, 1.0, 0, frozenset())
    found = walker.counts
    found.collectives = sorted(walker.collectives.values(), key=lambda c: -c.wire_bytes)
    return found


class _Walker:
    """Adds up while it walks."""

    def __init__(self, computations, entry: str, trips: tuple[int, ...]):
        self.computations, self.entry, self.trips = computations, entry, trips
        self.counts = Counts()
        self.collectives: dict[tuple, Collective] = {}

    def walk(self, name: str, times: float, depth: int, started: frozenset) -> None:
        """A computation that runs `times` times, inside `depth` assumed loops, while
        the chains `started` of collectives are under way."""
        computation = self.computations[name]
        # One collective may be cut into start, progress (in a loop, even) and end.
        chains = set(started)
        for i in computation.values():
            if i.opcode == "while":
                trips, assumed = self._trips(computation, i, depth)
                self.counts.assumed_loops += assumed
                self.walk(
                    i.attribute("body"),
                    times * trips,
                    depth + assumed,
                    frozenset(chains),
                )
            elif i.opcode == "conditional":
                self._dearest_branch(i, times, depth, frozenset(chains))
            elif i.opcode == "call":
                self.walk(i.attribute("to_apply"), times, depth, frozenset(chains))
            else:
                self._products(computation, i, times, chains)
                self.counts.nbytes += times * self._bytes(computation, i)

    def _dearest_branch(self, i: Instruction, times: float, depth: int, started):
        names = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
        branches = hlo.NAME.findall(names.group(1)) if names else []
        branches = branches or [
            i.attribute(f"{which}_computation") for which in ("true", "false")
        ]
        walkers = []
        for branch in branches:
            walker = _Walker(self.computations, branch, self.trips)
            walker.walk(branch, times, depth, started)
            walkers.append(walker)
        dearest = max(walkers, key=lambda w: (w.counts.nbytes, w.counts.flops))
        self.counts.flops += dearest.counts.flops
        self.counts.nbytes += dearest.counts.nbytes
        for key, value in dearest.collectives.items():
            self._add(key, value)

    def _trips(self, outer: Computation, loop: Instruction, depth: int):
        """Passes of a loop, and whether they are assumed."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1)), False
        condition = self.computations[loop.attribute("condition")]
        body = self.computations[loop.attribute("body")]
        compare = next(i for i in condition.values() if i.root)
        if compare.opcode == "compare" and "direction=LT" in compare.rest:
            counter, limit = (condition[name] for name in compare.operands)
            start = _initial(outer, loop, counter)
            end = _constant(limit)
            end = _initial(outer, loop, limit) if end is None else end
            if start is not None and end is not None:
                return max(0, -(-(end - start) // _stride(body, counter))), False
        if depth >= len(self.trips):
            raise ValueError(
                f"loop {loop.name} ends by the data and {len(self.trips)} nested trip "
                "counts are given; give one more."
            )
        return self.trips[depth], True

    def _products(self, computation, i: Instruction, times: float, chains) -> None:
        """Operations and collectives of an instruction and what is fused into it."""
        kind = i.opcode.removesuffix("-start")
        if i.opcode == "dot":
            self.counts.flops += times * _dot(computation, i)
        elif i.opcode == "convolution":
            self.counts.flops += times * _convolution(computation, i)
        elif i.opcode == "custom-call" and "tpu_custom_call" in i.rest:
            self._kernel(i, times)
        elif kind in COLLECTIVES:
            chain = re.search(r'chain_id="(\d+)"', i.rest)
            if chain is None:
                self._collective(computation, i, kind, times)
            elif chain.group(1) not in chains:
                chains.add(chain.group(1))
                self._collective(computation, i, kind, times)
        called = i.attribute("calls")
        if called and i.opcode in ("fusion", "async-start"):
            for inner in self.computations[called].values():
                self._products(self.computations[called], inner, times, chains)

    def _kernel(self, i: Instruction, times: float) -> None:
        name = next((k for k in _KERNEL_PRODUCTS if i.name.startswith(k)), None)
        shapes = re.search(r"operand_layout_constraints=\{(.*?)\}, \w+=", i.rest)
        arrays = hlo.ARRAY.findall(shapes.group(1)) if shapes else []
        # Queries come first, [B, H, T, C], or without B where that is 1.
        queries = [d for kind, d, _ in arrays if kind[0] in "bf" and d.count(",") >= 2]
        blocks = [d for kind, d, _ in arrays if kind == "s8"]
        if name is None or not queries or not blocks:
            self.counts.unknown.add(i.name)
            return
        *rows, T, C = (int(n) for n in queries[0].split(","))
        m, n = (int(n) for n in blocks[0].split(",")[-2:])
        # Blocks above the diagonal are left out; those on it are computed whole. Which
        # of both counts the queries makes no difference.
        pairs = T * T * sum(-(-(row + 1) * n // m) for row in range(m)) / (m * n)
        self.counts.flops += (
            times * _KERNEL_PRODUCTS[name] * 2 * math.prod(rows) * C * pairs
        )

    def _collective(self, computation, i: Instruction, kind: str, times: float):
        read = sum(a.nbytes for n in i.operands for a in computation[n].results)
        wrote = sum(a.nbytes for a in i.results)
        largest = max(i.results, key=lambda a: a.nbytes)
        if i.opcode.endswith("-start"):
            wrote = largest.nbytes
        parts = {i.name} | {
            j.name
            for j in computation.values()
            if j.opcode == "get-tuple-element" and j.operands[0] == i.name
        }
        scattered = kind == "all-reduce" and any(
            j.opcode in ("dynamic-slice", "slice")
            and (j.operands[0] in parts or j.root)
            for j in computation.values()
        )
        if scattered and any(j.opcode == "parameter" for j in computation.values()):
            kind = "reduce-scatter"  # how a TPU's compiler writes it: one fused step
        group = _group(i.rest)
        share = (group - 1) / max(group, 1)
        wire = {
            "all-gather": wrote * share,
            "all-reduce": 2 * read * share,
            "reduce-scatter": read * share,
            "all-to-all": read * share,
            "collective-permute": read,
        }[kind]
        result = f"{largest.dtype}[{','.join(map(str, largest.shape))}]"
        where = re.search(r'op_name="([^"]*)"', i.rest)
        where = where.group(1) if where else ""
        nbytes = max(read, wrote)
        found = Collective(
            kind=kind,
            result=result,
            group=group,
            times=times,
            nbytes=times * nbytes,
            wire_bytes=times * wire,
            where=where,
        )
        self._add((kind, result, group), found)

    def _add(self, key: tuple, new: Collective) -> None:
        old = self.collectives.get(key)
        if old is not None:
            new = dataclasses.replace(
                old,
                times=old.times + new.times,
                nbytes=old.nbytes + new.nbytes,
                wire_bytes=old.wire_bytes + new.wire_bytes,
            )
        self.collectives[key] = new

    def _bytes(self, computation: Computation, i: Instruction) -> float:
        """Bytes that one instruction reads and writes."""
        if i.opcode in _FREE or i.opcode.endswith("-done"):
            return 0.0
        if i.opcode == "custom-call" and any(name in i.rest for name in _FREE_CALLS):
            return 0.0
        if i.opcode == "copy-start":
            return sum(a.nbytes for a in i.results[:2] if a.hbm)
        if i.opcode == "slice-start":
            # The slice is read; the first array of the result is what it is cut from.
            piece = i.results[-2]
            return piece.nbytes * (1 + piece.hbm)
        sources = [computation[name] for name in i.operands]
        reads = [_hbm(source.results) for source in sources]
        writes = _hbm(i.results)
        if i.opcode in ("dynamic-slice", "slice", "gather"):
            return min(reads[0], _all(i.results)) + writes
        if i.opcode == "dynamic-update-slice":
            update = _all(sources[1].results)
            return reads[1] + (update if writes else 0)
        if i.opcode == "fusion":
            return self._fusion_bytes(self.computations[i.attribute("calls")], i, reads)
        return sum(reads) + writes

    def _fusion_bytes(self, fused: Computation, i: Instruction, reads) -> float:
        """A parameter that is only sliced counts by its slices; a result that updates
        a parameter in place by its update. So too in fusions inside this one."""
        root = next(j for j in fused.values() if j.root)
        if "AsyncCollectiveDone" in root.rest:
            return 0.0  # its arrays were counted at the start
        total = 0.0
        for j in fused.values():
            if j.opcode == "parameter":
                whole = reads[int(j.arguments)]
                total += min(whole, self._used(fused, j, whole))
        outputs = (
            [fused[n] for n in root.operands] if root.opcode == "tuple" else [root]
        )
        for output, array in zip(outputs, i.results):
            if array.hbm:
                total += self._written(fused, output, array.nbytes)
        return total

    def _used(self, fused: Computation, source: Instruction, whole: float) -> float:
        """Bytes of a fused array that its users read."""
        total = 0.0
        for user in fused.values():
            if source.name not in user.operands:
                continue
            if user.opcode == "bitcast":
                total += self._used(fused, user, whole)
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                first = user.operands[0] == source.name
                total += _all(user.results) if first else whole
            elif user.opcode == "dynamic-update-slice" and (
                user.operands[0] == source.name
            ):
                continue
            elif user.opcode == "fusion":
                inner = self.computations[user.attribute("calls")]
                total += sum(
                    self._used(inner, j, whole)
                    for j in inner.values()
                    if j.opcode == "parameter"
                    and user.operands[int(j.arguments)] == source.name
                )
            else:
                return whole
        return total

    def _written(self, fused: Computation, output: Instruction, whole: float) -> float:
        """Bytes of a fusion's result that it writes."""
        while output.opcode == "bitcast":
            output = fused[output.operands[0]]
        if output.opcode == "dynamic-update-slice":
            return _all(fused[output.operands[1]].results)
        if output.opcode == "fusion" and len(output.results) == 1:
            inner = self.computations[output.attribute("calls")]
            return self._written(
                inner, next(j for j in inner.values() if j.root), whole
            )
        return whole


def _hbm(results: tuple[Array, ...]) -> float:
    return sum(a.nbytes for a in results if a.hbm)


def _all(results: tuple[Array, ...]) -> float:
    return sum(a.nbytes for a in results)


def _constant(i: Instruction) -> int | None:
    if i.opcode == "constant" and re.fullmatch(r"-?\d+", i.arguments):
        return int(i.arguments)
    return None


def _initial(outer, loop: Instruction, element: Instruction) -> int | None:
    """The constant with which an element of a loop's state begins, or None."""
    value = outer[loop.operands[0]]
    found = re.search(r"index=(\d+)", element.rest)
    if element.opcode != "get-tuple-element" or value.opcode != "tuple" or not found:
        return None
    value = outer[value.operands[int(found.group(1))]]
    while value.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        value = outer[value.operands[0]]
    return _constant(value)


def _stride(body: Computation, counter: Instruction) -> int:
    """What a pass adds to the counter; 1 where that is not written plainly."""
    root = next(i for i in body.values() if i.root)
    found = re.search(r"index=(\d+)", counter.rest)
    if root.opcode != "tuple":
        return 1
    value = body[root.operands[int(found.group(1))]]
    if value.opcode != "add":
        return 1
    steps = [_constant(body[name]) for name in value.operands]
    return next((step for step in steps if step), 1)


def _dims(text: str, key: str) -> list[int]:
    found = re.search(rf"{key}=\{{([\d,]*)\}}", text)
    return [int(n) for n in found.group(1).split(",") if n] if found else []


def _dot(computation: Computation, i: Instruction) -> float:
    left = computation[i.operands[0]].results[0].shape
    inner = math.prod(left[d] for d in _dims(i.rest, "lhs_contracting_dims"))
    return 2.0 * math.prod(i.results[0].shape) * inner


def _convolution(computation: Computation, i: Instruction) -> float:
    """A TPU multiplies matrices by convolutions; only places inside the input count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
    left, right = (computation[name].results[0].shape for name in i.operands)
    out = i.results[0].shape
    window = re.search(r"window=\{([^}]*)\}", i.rest)
    window = window.group(1) if window else ""
    rank = len(left) - 2

    def sizes(key: str, default: int) -> list[int]:
        found = re.search(rf"\b{key}=([\dx]+)", window)
        return (
            [int(n) for n in found.group(1).split("x")] if found else [default] * rank
        )

    pads = re.search(r"\bpad=([\d_x\-]+)", window)
    pads = (
        [int(p.split("_")[0]) for p in pads.group(1).split("x")] if pads else [0] * rank
    )
    total = 2.0 * out[labels[2].index("b")] * out[labels[2].index("f")]
    total *= right[labels[1].index("i")]
    per_dim = zip(
        sizes("size", 1), sizes("stride", 1), pads, sizes("lhs_dilate", 1),
        sizes("rhs_dilate", 1),
    )  # fmt: skip
    for d, (kernel, stride, pad, dilated, spread) in enumerate(per_dim):
        n, o = left[labels[0].index(str(d))], out[labels[2].index(str(d))]
        at = np.arange(o)[:, None] * stride + np.arange(kernel)[None] * spread - pad
        total *= ((at >= 0) & (at <= (n - 1) * dilated) & (at % dilated == 0)).sum()
    return float(total)


def _group(text: str) -> int:
    """Devices in a replica group, in any of its spellings."""
    axes = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if axes:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes.group(1)))
        return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", axes.group(2)))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=", text)
    if iota:
        return int(iota.group(1).split(",")[-1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if listed:
        return len(listed.group(1).split(","))
    return 2  # a permutation: pairs
