"""Which types each ONNX operation may have where the GPU target runs it.

`TENSORRT` is the table of onnx/onnx-tensorrt, ``docs/operators.md`` as of TensorRT 10.15, the newest that was at hand;
that of TensorRT 11.2 names the same opsets, 9 to 24. Where the importer of that release, ``onnxOpImporters.cpp``, takes
more than the document says (integers in Clip), the importer holds. `CUDA` is the part that our graphs need of
microsoft/onnxruntime, ``docs/OperatorKernels.md``, CUDAExecutionProvider, at commit 001d12d of 2026.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["CUDA", "TENSORRT", "TENSORRT_OPSETS"]

TENSORRT_OPSETS = range(9, 25)

Types = frozenset[ir.DataType]

_D = ir.DataType
_FLOATS: Types = frozenset({_D.FLOAT, _D.FLOAT16, _D.BFLOAT16})
_FLOATS_OLD: Types = frozenset({_D.FLOAT, _D.FLOAT16})
_NUMBERS: Types = _FLOATS | {_D.INT32, _D.INT64}
_ALL: Types = _NUMBERS | {_D.BOOL}
_TRUTH: Types = frozenset({_D.BOOL})


def _table(groups: Mapping[Types, str]) -> dict[str, Types]:
    return {name: types for types, names in groups.items() for name in names.split()}


TENSORRT: dict[str, Types] = {
    **_table(
        {
            _FLOATS: """
                Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh
                CumSum Dropout Einsum Elu Erf Exp Floor Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
                GroupNormalization GRU Hardmax HardSigmoid HardSwish ImageScaler InstanceNormalization IsInf
                LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul MaxPool
                MeanVarianceNormalization ParametricSoftplus PRelu QuantizeLinear RandomNormal RandomNormalLike
                RandomUniform RandomUniformLike Reciprocal Resize RMSNormalization RNN RotaryEmbedding Round ScaledTanh
                Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
            """,
            _FLOATS_OLD: """
                BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero RoiAlign
            """,
            _NUMBERS: """
                Abs Add ArgMax ArgMin Clip DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean
                Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
                ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign
                SpaceToDepth Sub Sum TopK
            """,
            _ALL: """
                Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape
                ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
            """,
            _TRUTH: "And Not Or Xor",
        }
    ),
    "Attention": _FLOATS | {_D.INT8, _D.FLOAT8E4M3FN},
    "Cast": _ALL | {_D.UINT8},
    "CastLike": _ALL | {_D.UINT8},
    "Constant": _ALL | {_D.FLOAT8E4M3FN, _D.INT4},
    "ConstantOfShape": _ALL | {_D.FLOAT8E4M3FN, _D.INT4},
    "DequantizeLinear": frozenset({_D.INT8, _D.FLOAT8E4M3FN, _D.INT4}),
    "STFT": frozenset({_D.FLOAT}),
    "TensorScatter": _FLOATS | {_D.INT32},
}
"""Types of the data that an operation works on, `Cast`'s of both sides; what is not here is not imported."""

_ANY: Types = _ALL | {_D.UINT8, _D.INT8}

CUDA: dict[str, Types] = {
    **_table(
        {
            _ANY: """
                Cast Concat Expand Flatten Gather GatherElements Identity Reshape Shape Slice Split Squeeze Transpose
                Unsqueeze
            """,
            _NUMBERS | {_D.INT8, _D.UINT8}: "Add Div Mul Sub",
            _NUMBERS: "Max Min Mod Pow",
            _FLOATS: """
                Attention Conv Exp Gelu Gemm LayerNormalization MatMul Relu Sigmoid Softmax Sqrt Tanh
            """,
            _FLOATS_OLD: "GlobalAveragePool Log ReduceLogSumExp",
            _FLOATS_OLD | {_D.INT32}: "ReduceMean",
            _FLOATS_OLD | {_D.INT32, _D.INT64}: "GreaterOrEqual Less ReduceMax TopK",
            frozenset({_D.FLOAT, _D.INT32, _D.INT64}): "Range",
            _FLOATS | {_D.INT32, _D.INT64, _D.UINT8}: "ReduceSum Where",
            _TRUTH: "And Not Or",
        }
    ),
    "Clip": _FLOATS_OLD | {_D.INT64, _D.INT8, _D.UINT8},
    "MaxPool": _FLOATS_OLD | {_D.INT8, _D.UINT8},
    "Pad": _FLOATS_OLD | {_D.BOOL},
}
"""What has a kernel on the card; ONNX Runtime computes anything else on the processor, with copies there and back."""
