import type { DType } from '../../base/dtype.ts';
import { isHalf, withoutHalf } from '../../base/half.ts';
import type { Tensor } from '../../base/tensor.ts';
import { GraphBuilder } from '../../graph/build.ts';
import {
  type Attribute,
  type Graph,
  type Model,
  type Node,
  type ValueInfo,
  withGraph,
} from '../../graph/model.ts';
import { codeOfDtype, dtypeOfCode } from '../../graph/onnx/codes.ts';
import { namesIn, renameValues } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * The network in float32 wherever it is in 16-bit floats (float16, bfloat16): stored weights, conversions, inputs and
 * outputs. It computes what the network computes, but for the rounding of intermediate values; gradients and statistics
 * are taken of this form. All values keep their names.
 * @returns the model itself where nothing in it is in 16-bit floats
 */
export function singlePrecision(model: Model): Model {
  const graph = inSingle(model.graph);
  return graph === model.graph ? model : withGraph(model, graph);
}

/**
 * The same for callers that go on feeding and reading what they did: inputs and outputs keep their types, and are
 * converted behind resp. before them.
 * @returns the model itself where nothing but its inputs and outputs is in 16-bit floats
 */
export function singlePrecisionInside(model: Model): Model {
  if (!computesInHalf(model)) return model;
  const { inputs, outputs } = model.graph;
  const halves = (infos: readonly ValueInfo[]) => infos.filter(({ type }) => type && isHalf(type.dtype));
  const graph = inSingle(model.graph);
  const free = new GraphBuilder(graph.name);
  free.avoid(namesIn(graph));
  const names = new Map(
    [...halves(inputs), ...halves(outputs)].map(({ name }) => [name, free.fresh(`${name}_single`)]),
  );
  const inner = renameValues(graph, names);
  const casts = new GraphBuilder(graph.name, { ...inner, inputs: [], outputs: [] });
  casts.avoid(names.keys());
  const cast = (from: string, to: string, dtype: DType) =>
    casts.op('Cast', [from], { to: codeOfDtype(dtype) }, { outputs: [to], name: casts.fresh(`${to}_cast`) });
  for (const { name } of halves(inputs)) cast(name, names.get(name)!, 'float32');
  for (const { name, type } of halves(outputs)) cast(names.get(name)!, name, type!.dtype);
  const made = casts.finish().nodes.slice(inner.nodes.length);
  const entries = halves(inputs).length;
  const nodes = [...made.slice(0, entries), ...inner.nodes, ...made.slice(entries)];
  return withGraph(model, { ...inner, nodes, inputs, outputs });
}

/** Whether any node but a Cast reads or makes 16-bit floats. */
function computesInHalf(model: Model): boolean {
  const { types } = inferTypes(model);
  const isHalfValue = (name: string) => {
    const dtype = model.graph.initializers.get(name)?.dtype ?? types.get(name)?.dtype;
    return dtype !== undefined && isHalf(dtype);
  };
  return model.graph.nodes.some(
    (node) => node.opType !== 'Cast' && [...node.inputs, ...node.outputs].some(isHalfValue),
  );
}

function inSingle(graph: Graph): Graph {
  const nodes = mapped(graph.nodes, nodeInSingle);
  const [inputs, outputs] = [mapped(graph.inputs, infoInSingle), mapped(graph.outputs, infoInSingle)];
  const initializers = [...graph.initializers];
  const stored = mapped(initializers, (entry) => {
    const tensor = withoutHalf(entry[1]);
    return tensor === entry[1] ? entry : ([entry[0], tensor] as [string, Tensor]);
  });
  const isSame =
    nodes === graph.nodes && inputs === graph.inputs && outputs === graph.outputs && stored === initializers;
  if (isSame) return graph;
  const infos = [...graph.valueInfos].map(([name, info]) => [name, infoInSingle(info)] as const);
  return { ...graph, nodes, inputs, outputs, initializers: new Map(stored), valueInfos: new Map(infos) };
}

function infoInSingle(info: ValueInfo): ValueInfo {
  const { type } = info;
  return type !== undefined && isHalf(type.dtype) ? { ...info, type: { ...type, dtype: 'float32' } } : info;
}

function nodeInSingle(node: Node): Node {
  const attributes = [...node.attributes];
  const changed = mapped(attributes, (entry) => {
    const attribute = attributeInSingle(entry[0], entry[1]);
    return attribute === entry[1] ? entry : ([entry[0], attribute] as [string, Attribute]);
  });
  return changed === attributes ? node : { ...node, attributes: new Map(changed) };
}

function attributeInSingle(name: string, attribute: Attribute): Attribute {
  switch (attribute.kind) {
    case 'int': {
      const dtype = TYPE_ATTRIBUTES.has(name) ? dtypeOfCode(Number(attribute.value)) : undefined;
      return dtype !== undefined && isHalf(dtype)
        ? { kind: 'int', value: BigInt(codeOfDtype('float32')) }
        : attribute;
    }
    case 'tensor': {
      const value = withoutHalf(attribute.value);
      return value === attribute.value ? attribute : { kind: 'tensor', value };
    }
    case 'graph': {
      const value = inSingle(attribute.value);
      return value === attribute.value ? attribute : { kind: 'graph', value };
    }
    default:
      return attribute;
  }
}

/** Attributes that name the type of an output: of Cast; of EyeLike, RandomNormal and their kin. */
const TYPE_ATTRIBUTES: ReadonlySet<string> = new Set(['to', 'dtype']);

/** The list itself where nothing in it changes. */
function mapped<T>(items: readonly T[], change: (item: T) => T): readonly T[] {
  const results = items.map(change);
  return results.every((result, i) => result === items[i]) ? items : results;
}
