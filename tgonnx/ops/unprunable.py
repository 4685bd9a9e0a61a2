"""Standard operators around which nothing is cut, each with the reason that reports give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tgonnx.ops.aspects.relations import Relation
from tgonnx.ops.aspects.tables import rule
from tgonnx.ops.aspects.view import Unlabelled, View

KEPT = {
    "control flow": "If Loop Scan",
    "a sequence has no axes to follow": """
        SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
        SplitToSequence ConcatFromSequence OptionalHasElement""",
    "text has no channels": "StringNormalizer StringSplit StringConcat RegexFullMatch TfIdfVectorizer ImageDecoder",
    "its values are drawn at random, so that models with other sizes could not be compared": """
        Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike""",
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
