"""Standard operators around which nothing is cut, each with the reason that reports give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tgonnx.ops.aspects.asked import Asked, Claims
from tgonnx.ops.aspects.relations import Relation
from tgonnx.ops.aspects.tables import dims, rule
from tgonnx.ops.aspects.traits import EACH, Traits, traits
from tgonnx.ops.aspects.view import Unlabelled, View

_RANDOM = "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
KEPT = {
    "control flow": "If Loop Scan",
    "a sequence has no axes to follow": """
        SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
        SplitToSequence ConcatFromSequence OptionalHasElement""",
    "text has no channels": "StringNormalizer StringSplit StringConcat RegexFullMatch TfIdfVectorizer ImageDecoder",
    "its values are drawn at random, so that models with other sizes could not be compared": _RANDOM,
    "what it finds depends on all values": "NonZero Unique NonMaxSuppression",
    "its values depend on the length of its axes": """
        EyeLike BlackmanWindow HammingWindow HannWindow MelWeightMatrix Range""",
    "its state couples heads over time": "LinearAttention",
}  # fmt: skip


def keeping(reason: str) -> Callable[[View], Iterator[Relation]]:
    """A rule that says nothing but why."""

    def keep(view: View) -> Iterator[Relation]:
        raise Unlabelled(f"{view.op_type}: {reason}")

    return keep


for _reason, _op_types in KEPT.items():
    rule(*_op_types.split())(keeping(_reason))

traits("If", "Loop", "Scan", "SequenceMap", are=Traits(advice="export the model with sizes that unroll it"))
traits("Loop", are=Traits(sizes=EACH))  # what it starts from may say how often it runs
traits(*_RANDOM.split(), are=Traits(random=True, stops=True))
traits("NonZero", "Unique", "NonMaxSuppression", "EyeLike", "Range", are=Traits(stops=True))
traits("Constant", are=Traits(stops=True))  # which has no rule, as there is nothing to say of it
traits("Unique", "NonMaxSuppression", are=Traits(rounds=True))
traits("NonMaxSuppression", "Range", are=Traits(set_up=True))
traits("Range", are=Traits(sizes=(0, 1, 2), sizes_follow=True, grows=True, defined_by_loop=True))
traits("BlackmanWindow", "HammingWindow", "HannWindow", are=Traits(sizes=(0,), grows=True))
traits("MelWeightMatrix", are=Traits(sizes=(0, 1), grows=True))
traits("EPContext", are=Traits(compiled=True), domain="com.microsoft")

# onnxruntime's own, for blocked layouts and weights packed for the device at hand
COMPILED_DOMAINS = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}


@dims("Range")
def range_dims(asked: Asked) -> Claims | None:
    bounds = [asked.parts(i) for i in range(3)]
    if any(bound is None for bound in bounds):
        return None
    (start,), (limit,), (delta,) = bounds  # type: ignore[misc]
    if start == 0 and delta == 1 and asked.algebra.whole(limit):
        return [limit]
    return [asked.algebra.apply("Range", start, limit, delta, natural=True)]
