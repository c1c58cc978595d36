import { create, type DescMessage, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { BonsaiError, messageOf, systemCodeOf, systemReason } from '../../base/errors.ts';
import { replaceFile } from '../../base/replace-file.ts';
import { hasConsistentSize, type Tensor } from '../../base/tensor.ts';
import { InvalidGraphError } from '../errors.ts';
import type { Attribute, Dim, Graph, Model, Node, ValueInfo } from '../model.ts';
import { ATTRIBUTE_KINDS, codeOfDtype } from './codes.ts';
import { messageIn } from './leftovers.ts';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from './onnx_pb.ts';

/**
 * The model as ONNX bytes, all data inside. Weights are copied once, into the result: the library's encoder takes four
 * times as long for them (158 ms against 40 ms for 46 MB), so that initialisers are framed here.
 * Before IR version 4 the format wants initialisers among the inputs; they are listed behind the real ones.
 * @throws InvalidGraphError for tensors whose bytes do not fit their shape and for numbers that ONNX cannot hold
 * @throws BonsaiError `unsupported` beyond 2 GB, the limit of protobuf
 */
export function writeModel(model: Model): Uint8Array {
  const graph = model.graph;
  const chunks = [
    encoded(
      GraphProtoSchema,
      fromGraph(
        { ...graph, initializers: new Map() },
        graph.initializers,
        model.irVersion < FIRST_IR_WITH_FREE_INITIALIZERS,
      ),
    ),
  ];
  for (const [name, tensor] of graph.initializers) {
    const header = encoded(
      TensorProtoSchema,
      fromTensor(tensor, { name, rest: tensorRest(graph, name), withBytes: false }),
    );
    if (tensor.dtype === 'string') {
      chunks.push(frame(GRAPH_INITIALIZER, header.length), header);
      continue;
    }
    const raw = frame(TENSOR_RAW_DATA, tensor.bytes.byteLength);
    chunks.push(
      frame(GRAPH_INITIALIZER, header.length + raw.length + tensor.bytes.byteLength),
      header,
      raw,
      tensor.bytes,
    );
  }
  const graphBytes = totalLength(chunks);
  const head = [encoded(ModelProtoSchema, fromModel(model)), frame(MODEL_GRAPH, graphBytes)];
  return concatenated([...head, ...chunks]);
}

/**
 * Writes the model to a file: a regular one holds either what it held before or the whole model, symbolic links are
 * followed, devices and pipes are written into.
 * @throws BonsaiError `unwritable_path` if the folder is missing or refuses, the disk is full or a pipe's reader gone; else as writeModel
 */
export async function writeModelFile(model: Model, file: string): Promise<void> {
  const bytes = writeModel(model);
  try {
    await replaceFile(file, bytes);
  } catch (cause) {
    throw new BonsaiError(
      'unwritable_path',
      `Cannot write the model to ${file === '' ? 'a file without a name' : file}: ${systemReason(cause)}. ${hintFor(cause)}`,
      { cause },
    );
  }
}

/** What to do about a file that could not be written. */
function hintFor(cause: unknown): string {
  switch (systemCodeOf(cause)) {
    case 'EPIPE':
      return 'Whoever read from the pipe closed it before the end; let it read all of the file, or write to a file.';
    case 'ENOSPC':
    case 'EDQUOT':
      return 'Free some space there, or choose a path on another disk.';
    default:
      return 'Check that the folder exists and may be written to.';
  }
}

/** Protobuf counts lengths in signed 32-bit numbers, and so do the engines that read the file. */
export const MAX_MODEL_BYTES = 2 ** 31 - 1;

/** From IR version 4 on, an initialiser need not be a graph input. */
const FIRST_IR_WITH_FREE_INITIALIZERS = 4;

// Field numbers of the messages that are framed here rather than by the library.
const MODEL_GRAPH = 7;
const GRAPH_INITIALIZER = 5;
const TENSOR_RAW_DATA = 9;

function fromModel(model: Model): MessageShape<typeof ModelProtoSchema> {
  const proto = copyOf(ModelProtoSchema, messageIn(model.opaque, ModelProtoSchema));
  proto.irVersion = BigInt(model.irVersion);
  proto.opsetImport = model.opsets.map(({ domain, version }) =>
    create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) }),
  );
  proto.metadataProps = [...model.metadata].map(([key, value]) =>
    create(StringStringEntryProtoSchema, { key, value }),
  );
  if (model.producerName !== '') proto.producerName = model.producerName;
  if (model.producerVersion !== '') proto.producerVersion = model.producerVersion;
  if (model.domain !== '') proto.domain = model.domain;
  if (model.modelVersion !== 0n) proto.modelVersion = model.modelVersion;
  if (model.docString !== '') proto.docString = model.docString;
  return proto;
}

/** @param listed initialisers, which the graph may have to list as inputs; all of them, or those that the file listed */
function fromGraph(graph: Graph, listed: ReadonlyMap<string, Tensor>, listsAll: boolean): GraphProto {
  const rest = messageIn(graph.opaque, GraphProtoSchema);
  const proto = copyOf(GraphProtoSchema, rest);
  proto.name = graph.name;
  if (graph.docString !== '') proto.docString = graph.docString;
  proto.node = graph.nodes.map(fromNode);
  proto.initializer = [...graph.initializers].map(([name, tensor]) =>
    fromTensor(tensor, { name, rest: tensorRest(graph, name), withBytes: true }),
  );
  const declared = new Map(rest?.input.map((info) => [info.name, info]));
  const names = listsAll ? [...listed.keys()] : [...declared.keys()].filter((name) => listed.has(name));
  const inputs = new Set(graph.inputs.map((info) => info.name));
  proto.input = [
    ...graph.inputs.map(fromValueInfo),
    ...names
      .filter((name) => !inputs.has(name))
      .map((name) => {
        const { dtype, shape } = listed.get(name)!;
        return fromValueInfo({
          name,
          type: { dtype, shape },
          docString: declared.get(name)?.docString,
          opaque: { onnx: declared.get(name) },
        });
      }),
  ];
  proto.output = graph.outputs.map(fromValueInfo);
  proto.valueInfo = [...graph.valueInfos.values()].map(fromValueInfo);
  return proto;
}

function tensorRest(graph: Graph, name: string): TensorProto | undefined {
  return messageIn(graph.opaque, GraphProtoSchema)?.initializer.find((tensor) => tensor.name === name);
}

function fromNode(node: Node): NodeProto {
  const rest = messageIn(node.opaque, NodeProtoSchema);
  const proto = copyOf(NodeProtoSchema, rest);
  proto.input = [...node.inputs];
  proto.output = [...node.outputs];
  proto.opType = node.opType;
  if (node.name !== '') proto.name = node.name;
  if (node.domain !== '') proto.domain = node.domain;
  if (node.docString !== '') proto.docString = node.docString;
  proto.attribute = [...node.attributes].map(([name, attribute]) =>
    fromAttribute(
      name,
      attribute,
      rest?.attribute.find((kept) => kept.name === name),
    ),
  );
  return proto;
}

function fromAttribute(name: string, attribute: Attribute, rest: AttributeProto | undefined): AttributeProto {
  if (attribute.kind === 'opaque') {
    const kept = messageIn(attribute.value, AttributeProtoSchema);
    if (kept === undefined)
      throw new InvalidGraphError(`The attribute "${name}" holds opaque content of another format.`);
    const proto = copyOf(AttributeProtoSchema, kept);
    proto.name = name;
    return proto;
  }
  const proto = copyOf(AttributeProtoSchema, rest);
  const innerRests = proto.tensors;
  const innerRest = proto.t;
  proto.t = undefined;
  proto.tensors = [];
  proto.name = name;
  proto.type = ATTRIBUTE_KINDS.indexOf(attribute.kind);
  switch (attribute.kind) {
    case 'float':
      proto.f = attribute.value;
      break;
    case 'int':
      proto.i = attribute.value;
      break;
    case 'string':
      proto.s = attribute.value;
      break;
    case 'tensor':
      proto.t = fromTensor(attribute.value, { name: innerRest?.name, rest: innerRest, withBytes: true });
      break;
    case 'graph':
      proto.g = fromSubgraph(attribute.value);
      break;
    case 'floats':
      proto.floats = [...attribute.value];
      break;
    case 'ints':
      proto.ints = [...attribute.value];
      break;
    case 'strings':
      proto.strings = [...attribute.value];
      break;
    case 'tensors':
      proto.tensors = attribute.value.map((tensor, i) =>
        fromTensor(tensor, { name: innerRests[i]?.name, rest: innerRests[i], withBytes: true }),
      );
      break;
    case 'graphs':
      proto.graphs = attribute.value.map(fromSubgraph);
      break;
    default:
      attribute satisfies never;
  }
  return proto;
}

/** Inputs of a subgraph are the operator's business: they are listed as the file had them, whatever the IR version. */
function fromSubgraph(graph: Graph): GraphProto {
  return fromGraph(graph, graph.initializers, false);
}

function fromTensor(
  tensor: Tensor,
  options: { name: string | undefined; rest: TensorProto | undefined; withBytes: boolean },
): TensorProto {
  const { name = '', rest, withBytes } = options;
  if (!hasConsistentSize(tensor)) {
    throw new InvalidGraphError(
      `The tensor "${name}" of ${tensor.dtype} [${tensor.shape.join(', ')}] holds ${tensor.strings?.length ?? tensor.bytes.byteLength} ${tensor.dtype === 'string' ? 'strings' : 'bytes'}.`,
    );
  }
  const proto = copyOf(TensorProtoSchema, rest);
  proto.dims = tensor.shape.map(BigInt);
  proto.dataType = codeOfDtype(tensor.dtype);
  if (name !== '') proto.name = name;
  if (tensor.dtype === 'string') proto.stringData = [...(tensor.strings ?? [])];
  else if (withBytes) proto.rawData = tensor.bytes;
  return proto;
}

function fromValueInfo(info: ValueInfo): ValueInfoProto {
  const rest = messageIn(info.opaque, ValueInfoProtoSchema);
  const proto = copyOf(ValueInfoProtoSchema, rest);
  proto.name = info.name;
  if (info.docString !== undefined && info.docString !== '') proto.docString = info.docString;
  if (info.type === undefined) return proto;
  const kept = rest?.type?.value.case === 'tensorType' ? rest.type.value.value : undefined;
  const keptDims = kept?.shape?.dim.length === info.type.shape?.length ? kept?.shape?.dim : undefined;
  const tensor = copyOf(TypeProto_TensorSchema, kept);
  tensor.elemType = codeOfDtype(info.type.dtype);
  tensor.shape = undefined;
  if (info.type.shape !== undefined) {
    tensor.shape = copyOf(TensorShapeProtoSchema, kept?.shape);
    tensor.shape.dim = info.type.shape.map((size, i) => {
      const dim = copyOf(TensorShapeProto_DimensionSchema, keptDims?.[i]);
      dim.value = fromDim(size);
      return dim;
    });
  }
  proto.type = copyOf(TypeProtoSchema, rest?.type);
  proto.type.value = { case: 'tensorType', value: tensor };
  return proto;
}

function fromDim(size: Dim): MessageShape<typeof TensorShapeProto_DimensionSchema>['value'] {
  if (size === null) return { case: undefined };
  return typeof size === 'string'
    ? { case: 'dimParam', value: size }
    : { case: 'dimValue', value: BigInt(size) };
}

/** A new message with the same fields (shared, not cloned): what is set on it leaves the original alone. */
function copyOf<D extends DescMessage>(schema: D, message: MessageShape<D> | undefined): MessageShape<D> {
  const copy = create(schema);
  return message === undefined ? copy : Object.assign(copy, message);
}

function encoded<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array {
  try {
    return toBinary(schema, message);
  } catch (cause) {
    throw new InvalidGraphError(`The model has a value that ONNX cannot hold: ${messageOf(cause)}.`, {
      cause,
    });
  }
}

/** Tag and length that stand before a length-delimited field. */
function frame(field: number, length: number): Uint8Array {
  // The writer takes lengths as unsigned 32-bit; what is longer is refused when the chunks are joined.
  return new BinaryWriter()
    .tag(field, WireType.LengthDelimited)
    .uint32(Math.min(length, 0xffffffff))
    .finish();
}

function totalLength(chunks: readonly Uint8Array[]): number {
  let length = 0;
  for (const chunk of chunks) length += chunk.byteLength;
  return length;
}

function concatenated(chunks: readonly Uint8Array[]): Uint8Array {
  const length = totalLength(chunks);
  if (length > MAX_MODEL_BYTES) {
    throw new BonsaiError(
      'unsupported',
      `The model would take ${length} bytes; an ONNX file holds at most ${MAX_MODEL_BYTES}. Make the network smaller.`,
    );
  }
  const bytes = new Uint8Array(length);
  let position = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, position);
    position += chunk.byteLength;
  }
  return bytes;
}
