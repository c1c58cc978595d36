import {
  create,
  type DescMessage,
  isMessage,
  type MessageInitShape,
  type MessageShape,
} from '@bufbuild/protobuf';
import type { Tensor } from '../../base/tensor.ts';
import type { Graph, Opaque } from '../model.ts';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from './onnx_pb.ts';

/**
 * What remains of a message when everything that Bonsai's records hold is taken out: a message of the same type
 * with only the named fields, the extra ones and unknown fields. Undefined if nothing remains, which is the common case.
 */
export function leftoversOf<D extends DescMessage>(
  schema: D,
  message: MessageShape<D>,
  names: readonly (keyof MessageShape<D> & string)[],
  extra: Readonly<Record<string, readonly unknown[]>> = {},
): Opaque | undefined {
  const kept: Record<string, unknown> = {};
  for (const name of names) if (Object.hasOwn(message, name)) keep(kept, name, message[name]);
  for (const [name, value] of Object.entries(extra)) keep(kept, name, value);
  const unknown = message.$unknown;
  if (Object.keys(kept).length === 0 && unknown === undefined) return undefined;
  const rest = create(schema, kept as MessageInitShape<D>); // The values were fields of a message of this type.
  if (unknown !== undefined) rest.$unknown = unknown;
  return { onnx: rest };
}

/** The leftovers of a graph; those of its initialisers and the initialisers' input declarations lie in them by name. */
export function graphLeftovers(
  proto: GraphProto,
  initializers: ReadonlyMap<string, Tensor>,
): Opaque | undefined {
  return leftoversOf(
    GraphProtoSchema,
    proto,
    ['quantizationAnnotation', 'sparseInitializer', 'metadataProps'],
    {
      initializer: proto.initializer.flatMap((tensor) => {
        const rest = tensorLeftovers(tensor);
        if (rest === undefined) return [];
        rest.name = tensor.name;
        return [rest];
      }),
      input: proto.input.filter((info) => initializers.has(info.name)),
    },
  );
}

/** The leftovers of an attribute under its name: doc string, and names and doc strings of tensors inside. */
export function attributeLeftovers(proto: AttributeProto): AttributeProto | undefined {
  const inner = proto.t === undefined ? undefined : attributeTensorLeftovers(proto.t);
  const list = proto.tensors.map(attributeTensorLeftovers);
  const rest = leftoversOf(AttributeProtoSchema, proto, ['docString'], {
    tensors: list.some((item) => item !== undefined)
      ? list.map((item) => item ?? create(TensorProtoSchema))
      : [],
  });
  if (rest === undefined && inner === undefined) return undefined;
  const message = messageIn(rest, AttributeProtoSchema) ?? create(AttributeProtoSchema);
  message.name = proto.name;
  if (inner !== undefined) message.t = inner;
  return message;
}

export function tensorLeftovers(proto: TensorProto): TensorProto | undefined {
  return messageIn(leftoversOf(TensorProtoSchema, proto, ['docString', 'metadataProps']), TensorProtoSchema);
}

/** Names of a graph's sparse initialisers, which Bonsai carries along but which define values like the dense ones. */
export function sparseInitializerNames(graph: Graph): string[] {
  const sparse = messageIn(graph.opaque, GraphProtoSchema)?.sparseInitializer ?? [];
  return sparse.flatMap(({ values }) => (values === undefined ? [] : [values.name]));
}

/** The message inside an opaque record, if it is of the given type. */
export function messageIn<D extends DescMessage>(
  opaque: Opaque | undefined,
  schema: D,
): MessageShape<D> | undefined {
  return isMessage(opaque?.onnx, schema) ? opaque.onnx : undefined;
}

/** Tensors in attributes have a name that nothing else keeps. */
function attributeTensorLeftovers(proto: TensorProto): TensorProto | undefined {
  return messageIn(
    leftoversOf(TensorProtoSchema, proto, ['name', 'docString', 'metadataProps']),
    TensorProtoSchema,
  );
}

function keep(kept: Record<string, unknown>, name: string, value: unknown): void {
  const isEmpty = value === undefined || value === '' || (Array.isArray(value) && value.length === 0);
  if (!isEmpty) kept[name] = value;
}
