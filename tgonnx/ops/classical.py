"""Preprocessing of ai.onnx.ml, which scikit-learn's exporters write in front of a network.

Numbers for each feature are stored in attributes, so features stay; what comes behind is pruned.
"""

from __future__ import annotations

from collections.abc import Iterator

from tgonnx.ops.aspects.relations import Relation, Tie
from tgonnx.ops.aspects.row import Row, Shapes
from tgonnx.ops.aspects.tables import rule, sizes
from tgonnx.ops.aspects.view import View, same

ML = "ai.onnx.ml"
PER_FEATURE = "Scaler Imputer Normalizer".split()
ELEMENTWISE = "Binarizer LabelEncoder CategoryMapper".split()


@rule(*PER_FEATURE, "ArrayFeatureExtractor", domain=ML)
def features(view: View) -> Iterator[Relation]:
    """The last axis holds features, each with numbers of its own."""
    x, y = view.input(0), view.output()
    if x.rank == y.rank:
        yield from same(x, y, skip=[x.rank - 1])


@rule(*ELEMENTWISE, domain=ML)
def elementwise(view: View) -> Iterator[Relation]:
    yield from same(view.input(0), view.output())


@sizes(*PER_FEATURE, *ELEMENTWISE, domain=ML)
def unchanged(row: Row) -> Shapes:
    return [row.shape(row.x)]


@rule("FeatureVectorizer", domain=ML)
def feature_vectorizer(view: View) -> Iterator[Relation]:
    """Features of all inputs, one after the other."""
    for operand in filter(None, view.inputs):
        yield from same(operand, view.output(), skip=[1])


@sizes("FeatureVectorizer", domain=ML)
def feature_vectorizer_sizes(row: Row) -> Shapes:
    shape = row.shape(row.x)
    return [] if shape is None or len(shape) != 2 else [(shape[0], sum(row.attribute("inputdimensions", [])))]


@rule("OneHotEncoder", domain=ML)
def one_hot_encoder(view: View) -> Iterator[Relation]:
    """A new axis at the end has one entry for each category: it stays."""
    yield from map(Tie, view.input(0).axes, view.output().axes[:-1])
