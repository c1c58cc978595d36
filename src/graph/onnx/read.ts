import { readFileSync, realpathSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import { CorruptModelError } from '../errors.ts';
import type { Attribute, Dim, Graph, Model, Node, OpsetImport, Shape, ValueInfo } from '../model.ts';
import { ATTRIBUTE_KINDS, dtypeOfCode, STANDARD_DOMAIN_ALIAS } from './codes.ts';
import { attributeLeftovers, graphLeftovers, leftoversOf } from './leftovers.ts';
import {
  type AttributeProto,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type OperatorSetIdProto,
  type SparseTensorProto,
  type StringStringEntryProto,
  type TensorProto,
  type TypeProto,
  type ValueInfoProto,
} from './onnx_pb.ts';
import { inlineExternalData, type TensorSource, toTensor } from './tensor-data.ts';
import { checkWire } from './wire.ts';

export interface ReadOptions {
  /** What error messages call the bytes: usually the file's path. Default `model`. */
  readonly source?: string;
  /** Gives the bytes of a file of external data, by the location that the model names. Default: external data is refused. */
  readonly readExternal?: (location: string) => Uint8Array;
}

/**
 * Reads an ONNX model. Weights are views of `bytes` wherever the file stores them raw, so `bytes` must not change
 * afterwards. Everything that Bonsai does not interpret travels in the records' `opaque` and is written again.
 * Initialisers that the file also lists as graph inputs are taken out of `inputs`. Negative sizes of values, by which some
 * exporters mean "unknown", become null.
 * Source of the format: onnx.ai, "Open Neural Network Exchange Intermediate Representation".
 * @throws CorruptModelError naming the byte, node or tensor where the bytes are no ONNX model
 * @throws BonsaiError `unsupported` for operator sets and IR versions outside the supported range, and compressed files
 * @throws BonsaiError `missing_file` if external data is needed and `readExternal` is not given
 */
export function readModel(bytes: Uint8Array, options: ReadOptions = {}): Model {
  const source = options.source ?? 'model';
  if (bytes.length === 0) throw new CorruptModelError(source, 'the file is empty');
  if (bytes[0] === GZIP_MAGIC[0] && bytes[1] === GZIP_MAGIC[1]) {
    throw new BonsaiError(
      'unsupported',
      `${source} is compressed with gzip; expected an ONNX file. Unpack it first, such as with gunzip --keep.`,
    );
  }
  // A Buffer's `slice` shares memory where a Uint8Array's copies; only plain arrays may reach the tensors.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkWire(plain, ModelProtoSchema, source);
  let proto: ModelProto;
  try {
    proto = fromBinary(ModelProtoSchema, plain);
  } catch (cause) {
    throw new CorruptModelError(source, `the bytes cannot be decoded (${messageOf(cause)})`, { cause });
  }
  const tensors = { source, readExternal: options.readExternal };
  const irVersion = checkedIrVersion(proto, source);
  const opsets = checkedOpsets(proto.opsetImport, source);
  if (proto.graph === undefined) throw new CorruptModelError(source, 'the model has no graph');
  for (const info of proto.trainingInfo) {
    for (const graph of [info.initialization, info.algorithm]) if (graph) inlineGraph(graph, tensors);
  }
  for (const definition of proto.functions) inlineFunction(definition, tensors);
  return {
    irVersion,
    opsets,
    graph: toGraph(proto.graph, tensors),
    metadata: toMetadata(proto.metadataProps, source),
    producerName: proto.producerName,
    producerVersion: proto.producerVersion,
    domain: proto.domain,
    modelVersion: proto.modelVersion,
    docString: proto.docString,
    opaque: leftoversOf(ModelProtoSchema, proto, ['trainingInfo', 'functions']),
  };
}

/**
 * Reads a model's file, and external data from files beside it.
 * @param onExternalFile told the path of each file of external data
 * @throws BonsaiError `missing_file` if the file or its external data cannot be read; else as readModel
 */
export async function readModelFile(file: string, onExternalFile?: (path: string) => void): Promise<Model> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    throw unreadable(file, 'the model', cause);
  }
  return readModel(bytes, { source: file, readExternal: externalReader(file, onExternalFile) });
}

/** No ONNX file begins so: in protobuf the first byte is of a wire type that does not exist. Source: RFC 1952. */
const GZIP_MAGIC = [0x1f, 0x8b] as const;

/** Oldest and newest IR version that are read. Newer ones than 10 add only fields that are carried along. */
export const IR_VERSIONS = { oldest: 3, newest: 13 } as const;

/** Versions of the standard operator set whose operators Bonsai knows. */
export const OPSET_VERSIONS = { oldest: 7, newest: 22 } as const;

/** Reads files of external data at most once, and only from the model's folder or below. */
function externalReader(file: string, onFile?: (path: string) => void): (location: string) => Uint8Array {
  const known = new Map<string, Uint8Array>();
  return (location) => {
    const held = known.get(location);
    if (held !== undefined) return held;
    const folder = path.resolve(path.dirname(file));
    const target = path.resolve(folder, location);
    if (path.isAbsolute(location) || !isInside(folder, target)) throw leavesFolder(file, location);
    try {
      // Symbolic links are followed first: a link in the folder must not lead out of it either.
      if (!isInside(realpathSync(folder), realpathSync(target)))
        throw leavesFolder(
          file,
          location,
          'it is a link that leads there, so put the file itself into the folder',
        );
      const bytes = readFileSync(target);
      known.set(location, bytes);
      onFile?.(target);
      return bytes;
    } catch (cause) {
      if (cause instanceof BonsaiError) throw cause;
      throw unreadable(target, `the external data of ${file}`, cause);
    }
  };
}

function isInside(folder: string, target: string): boolean {
  const relative = path.relative(folder, target);
  return (
    relative !== '' &&
    relative !== '..' &&
    !relative.startsWith(`..${path.sep}`) &&
    !path.isAbsolute(relative)
  );
}

function leavesFolder(file: string, location: string, why?: string): CorruptModelError {
  const place = `external data at "${location}" lies outside the model's folder`;
  return new CorruptModelError(file, why === undefined ? place : `${place}: ${why}`);
}

function unreadable(file: string, what: string, cause: unknown): BonsaiError {
  if (systemCodeOf(cause) === 'ERR_FS_FILE_TOO_LARGE') {
    return new BonsaiError(
      'unsupported',
      `${file}: ${what} has more than 2 GB, which one read cannot take.`,
      { cause },
    );
  }
  return new BonsaiError(
    'missing_file',
    `Cannot read ${what}, ${file}: ${messageOf(cause)}. Check the path.`,
    { cause },
  );
}

function checkedIrVersion(proto: ModelProto, source: string): number {
  const version = Number(proto.irVersion);
  if (version <= 0) throw new CorruptModelError(source, `the IR version is ${version}`);
  if (version < IR_VERSIONS.oldest || version > IR_VERSIONS.newest) {
    throw new BonsaiError(
      'unsupported',
      `${source}: IR version ${version} is not supported; ${IR_VERSIONS.oldest} to ${IR_VERSIONS.newest} are. Export the model with another version.`,
    );
  }
  return version;
}

function checkedOpsets(protos: readonly OperatorSetIdProto[], source: string): OpsetImport[] {
  if (protos.length === 0) throw new CorruptModelError(source, 'the model imports no operator set');
  const versions = new Map<string, number>();
  for (const proto of protos) {
    const domain = toDomain(proto.domain);
    const version = Number(proto.version);
    if (version < 1 || version > 0x7fffffff) {
      throw new CorruptModelError(
        source,
        `version ${proto.version} of the operator set "${domain || STANDARD_DOMAIN_ALIAS}" cannot be`,
      );
    }
    if ((versions.get(domain) ?? version) !== version) {
      throw new CorruptModelError(
        source,
        `the operator set "${domain || STANDARD_DOMAIN_ALIAS}" is imported in two versions`,
      );
    }
    versions.set(domain, version);
  }
  const standard = versions.get('');
  if (standard !== undefined && (standard < OPSET_VERSIONS.oldest || standard > OPSET_VERSIONS.newest)) {
    throw new BonsaiError(
      'unsupported',
      `${source}: operator set ${standard} is not supported; ${OPSET_VERSIONS.oldest} to ${OPSET_VERSIONS.newest} are. Convert the model or export it with another opset.`,
    );
  }
  return [...versions].map(([domain, version]) => ({ domain, version }));
}

function toDomain(domain: string): string {
  return domain === STANDARD_DOMAIN_ALIAS ? '' : domain;
}

function toMetadata(entries: readonly StringStringEntryProto[], source: string): Map<string, string> {
  const metadata = new Map<string, string>();
  for (const { key, value } of entries) {
    if (metadata.has(key)) throw new CorruptModelError(source, `the metadata has the key "${key}" twice`);
    metadata.set(key, value);
  }
  return metadata;
}

function toGraph(proto: GraphProto, tensors: TensorSource): Graph {
  const { source } = tensors;
  const initializers = new Map<string, Tensor>();
  for (const tensor of proto.initializer) {
    const where = `${source}, initializer "${tensor.name}"`;
    if (tensor.name === '')
      throw new CorruptModelError(source, `an initializer of graph "${proto.name}" has no name`);
    if (initializers.has(tensor.name))
      throw new CorruptModelError(where, 'the name is taken by another initializer');
    initializers.set(tensor.name, toTensor(tensor, where, tensors));
  }
  for (const sparse of proto.sparseInitializer) inlineSparse(sparse, tensors);
  const valueInfos = new Map<string, ValueInfo>();
  for (const info of proto.valueInfo) valueInfos.set(info.name, toValueInfo(info));
  const nodes = proto.node.map((node, index) => toNode(node, index, tensors));
  return {
    name: proto.name,
    nodes,
    inputs: proto.input.filter((info) => !initializers.has(info.name)).map(toValueInfo),
    outputs: proto.output.map(toValueInfo),
    initializers,
    valueInfos,
    docString: proto.docString,
    opaque: graphLeftovers(proto, initializers),
  };
}

function toNode(proto: NodeProto, index: number, tensors: TensorSource): Node {
  const where = `${tensors.source}, node ${index} (${proto.opType || 'no operator'} "${proto.name || (proto.output[0] ?? '')}")`;
  if (proto.opType === '') throw new CorruptModelError(where, 'the node names no operator');
  const attributes = new Map<string, Attribute>();
  for (const attribute of proto.attribute) {
    const place = `${where}, attribute "${attribute.name}"`;
    if (attributes.has(attribute.name)) throw new CorruptModelError(place, 'the attribute is given twice');
    attributes.set(attribute.name, toAttribute(attribute, place, tensors));
  }
  return {
    name: proto.name,
    opType: proto.opType,
    domain: toDomain(proto.domain),
    inputs: proto.input,
    outputs: proto.output,
    attributes,
    docString: proto.docString,
    opaque: leftoversOf(NodeProtoSchema, proto, ['overload', 'metadataProps'], {
      attribute: proto.attribute.flatMap((attribute) => attributeLeftovers(attribute) ?? []),
    }),
  };
}

function toAttribute(proto: AttributeProto, where: string, tensors: TensorSource): Attribute {
  const kind =
    proto.refAttrName !== '' ? 'opaque' : proto.type !== 0 ? ATTRIBUTE_KINDS[proto.type] : impliedKind(proto);
  const needed = <T>(value: T | undefined): T => {
    if (value === undefined) throw new CorruptModelError(where, `the ${kind} is missing`);
    return value;
  };
  switch (kind) {
    case 'float':
      return { kind, value: proto.f };
    case 'int':
      return { kind, value: proto.i };
    case 'string':
      return { kind, value: proto.s };
    case 'tensor':
      return { kind, value: toTensor(needed(proto.t), where, tensors) };
    case 'graph':
      return { kind, value: toGraph(needed(proto.g), tensors) };
    case 'floats':
      return { kind, value: proto.floats };
    case 'ints':
      return { kind, value: proto.ints };
    case 'strings':
      return { kind, value: proto.strings };
    case 'tensors':
      return { kind, value: proto.tensors.map((tensor) => toTensor(tensor, where, tensors)) };
    case 'graphs':
      return { kind, value: proto.graphs.map((graph) => toGraph(graph, tensors)) };
    default:
      inlineAttribute(proto, tensors);
      return { kind: 'opaque', value: { onnx: proto } };
  }
}

/** Files of IR version 1 exporters leave the type out; the field that is set tells it. */
function impliedKind(proto: AttributeProto): Attribute['kind'] {
  if (Object.hasOwn(proto, 'f')) return 'float';
  if (Object.hasOwn(proto, 'i')) return 'int';
  if (Object.hasOwn(proto, 's')) return 'string';
  if (proto.t !== undefined) return 'tensor';
  if (proto.g !== undefined) return 'graph';
  if (proto.floats.length > 0) return 'floats';
  if (proto.ints.length > 0) return 'ints';
  if (proto.strings.length > 0) return 'strings';
  if (proto.tensors.length > 0) return 'tensors';
  if (proto.graphs.length > 0) return 'graphs';
  return 'opaque';
}

function toValueInfo(proto: ValueInfoProto): ValueInfo {
  const info = { name: proto.name, ...(proto.docString === '' ? {} : { docString: proto.docString }) };
  const tensor = proto.type?.value.case === 'tensorType' ? proto.type.value.value : undefined;
  const dtype = tensor === undefined ? undefined : dtypeOfCode(tensor.elemType);
  if (tensor === undefined || dtype === undefined) {
    return proto.type === undefined && proto.metadataProps.length === 0 && proto.$unknown === undefined
      ? info
      : { ...info, opaque: { onnx: proto } };
  }
  const shape: Shape | undefined = tensor.shape?.dim.map(({ value }): Dim => {
    if (value.case === 'dimValue') return value.value < 0n ? null : Number(value.value);
    return value.case === 'dimParam' && value.value !== '' ? value.value : null;
  });
  const plain = proto.metadataProps.length === 0 && proto.$unknown === undefined && isPlainType(proto.type!);
  return {
    ...info,
    type: { dtype, ...(shape === undefined ? {} : { shape }) },
    ...(plain ? {} : { opaque: { onnx: proto } }),
  };
}

/** Whether a tensor's type says no more than ValueType holds. */
function isPlainType(type: TypeProto): boolean {
  if (type.denotation !== '' || type.$unknown !== undefined || type.value.case !== 'tensorType') return false;
  const { shape, $unknown } = type.value.value;
  if ($unknown !== undefined) return false;
  return (
    shape === undefined ||
    (shape.$unknown === undefined &&
      shape.dim.every((dim) => dim.denotation === '' && dim.$unknown === undefined))
  );
}

// What is carried along uninterpreted still has to lose its ties to files that the written model will not have.

function inlineFunction(proto: FunctionProto, tensors: TensorSource): void {
  for (const attribute of proto.attributeProto) inlineAttribute(attribute, tensors);
  for (const node of proto.node) for (const attribute of node.attribute) inlineAttribute(attribute, tensors);
}

function inlineGraph(proto: GraphProto, tensors: TensorSource): void {
  for (const tensor of proto.initializer) inlineExternalData(tensor, tensorPlace(tensor, tensors), tensors);
  for (const sparse of proto.sparseInitializer) inlineSparse(sparse, tensors);
  for (const node of proto.node) for (const attribute of node.attribute) inlineAttribute(attribute, tensors);
}

function inlineAttribute(proto: AttributeProto, tensors: TensorSource): void {
  const single = proto.t === undefined ? [] : [proto.t];
  for (const tensor of [...single, ...proto.tensors])
    inlineExternalData(tensor, tensorPlace(tensor, tensors), tensors);
  const sparse = proto.sparseTensor === undefined ? [] : [proto.sparseTensor];
  for (const tensor of [...sparse, ...proto.sparseTensors]) inlineSparse(tensor, tensors);
  const graph = proto.g === undefined ? [] : [proto.g];
  for (const inner of [...graph, ...proto.graphs]) inlineGraph(inner, tensors);
}

function inlineSparse(proto: SparseTensorProto, tensors: TensorSource): void {
  for (const part of [proto.values, proto.indices]) {
    if (part !== undefined) inlineExternalData(part, tensorPlace(part, tensors), tensors);
  }
}

function tensorPlace(tensor: TensorProto, tensors: TensorSource): string {
  return `${tensors.source}, tensor "${tensor.name}"`;
}
