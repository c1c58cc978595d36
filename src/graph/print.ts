import { elementCount, elementsOf, isNumeric, type Tensor } from '../base/tensor.ts';
import type { Attribute, Graph, Model, Node, ValueInfo } from './model.ts';

/**
 * A model as text that a person can review and a snapshot can hold: one line a node, initialisers with their type and
 * shape where they are used (small ones with their values), attributes in alphabetical order.
 *
 *     model ir 8, opset 17, producer "bonsai"
 *     graph "main"
 *       input  image: float32[N, 1, 28, 28]
 *       y = Conv(image, w: float32[8, 1, 3, 3]) {pads: [1, 1, 1, 1]}
 *       output y: float32[N, 8, 28, 28]
 */
export function printModel(model: Model): string {
  const opsets = model.opsets.map(
    ({ domain, version }) => `opset ${domain === '' ? '' : `${domain} `}${version}`,
  );
  const producer =
    model.producerName === ''
      ? []
      : [`producer ${quoted(`${model.producerName} ${model.producerVersion}`.trim())}`];
  return [
    `model ir ${model.irVersion}, ${[...opsets, ...producer].join(', ')}`,
    ...[...model.metadata].map(([key, value]) => `metadata ${key}: ${quoted(shortened(value))}`),
    ...graphLines(model.graph, ''),
    '',
  ].join('\n');
}

/** Elements up to which a tensor's values are printed: enough for axes, pads and shapes of images. */
export const MAX_PRINTED_ELEMENTS = 8;

/** Characters of a string that are printed: enough to recognise it on one line. */
export const MAX_PRINTED_CHARACTERS = 80;

const decoder = new TextDecoder();

function graphLines(graph: Graph, indent: string): string[] {
  const used = new Set(graph.nodes.flatMap((node) => node.inputs));
  const inner = `${indent}  `;
  return [
    `${indent}graph ${quoted(graph.name)}`,
    ...graph.inputs.map((info) => `${inner}input  ${valueText(info)}`),
    ...[...graph.initializers]
      .filter(([name]) => !used.has(name))
      .map(([name, tensor]) => `${inner}initializer ${name}: ${tensorText(tensor)}`),
    ...graph.nodes.flatMap((node) => nodeLines(node, graph, inner)),
    ...graph.outputs.map((info) => `${inner}output ${valueText(info)}`),
  ];
}

function nodeLines(node: Node, graph: Graph, indent: string): string[] {
  const operator = node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
  const inputs = node.inputs.map((name) => {
    const tensor = graph.initializers.get(name);
    return name === '' ? '-' : tensor === undefined ? name : `${name}: ${tensorText(tensor)}`;
  });
  const sorted = [...node.attributes].sort(([a], [b]) => (a < b ? -1 : 1));
  const plain = sorted.filter(([, attribute]) => !holdsGraphs(attribute));
  const attributes =
    plain.length === 0
      ? ''
      : ` {${plain.map(([name, value]) => `${name}: ${attributeText(value)}`).join(', ')}}`;
  const outputs = node.outputs.map((name) => (name === '' ? '-' : name)).join(', ');
  return [
    `${indent}${outputs} = ${operator}(${inputs.join(', ')})${attributes}`,
    ...sorted.flatMap(([name, attribute]) =>
      graphsIn(attribute).flatMap((inner) => [`${indent}  ${name}:`, ...graphLines(inner, `${indent}    `)]),
    ),
  ];
}

function valueText({ name, type }: ValueInfo): string {
  if (type === undefined) return `${name}: ?`;
  const shape = type.shape === undefined ? '' : `[${type.shape.map((size) => size ?? '?').join(', ')}]`;
  return `${name}: ${type.dtype}${shape}`;
}

function tensorText(tensor: Tensor): string {
  const type = `${tensor.dtype}[${tensor.shape.join(', ')}]`;
  const count = elementCount(tensor.shape);
  if (count > MAX_PRINTED_ELEMENTS || !isNumeric(tensor.dtype)) return type;
  return `${type} = ${Array.from(elementsOf(tensor) as ArrayLike<number | bigint>, numberText).join(' ')}`;
}

function attributeText(attribute: Attribute): string {
  switch (attribute.kind) {
    case 'float':
      return floatText(attribute.value);
    case 'int':
      return String(attribute.value);
    case 'string':
      return quoted(shortened(decoder.decode(attribute.value)));
    case 'tensor':
      return tensorText(attribute.value);
    case 'floats':
      return `[${attribute.value.map(floatText).join(', ')}]`;
    case 'ints':
      return `[${attribute.value.join(', ')}]`;
    case 'strings':
      return `[${attribute.value.map((item) => quoted(shortened(decoder.decode(item)))).join(', ')}]`;
    case 'tensors':
      return `[${attribute.value.map(tensorText).join(', ')}]`;
    case 'graph':
    case 'graphs':
    case 'opaque':
      return attribute.kind;
    default:
      return attribute satisfies never;
  }
}

function graphsIn(attribute: Attribute): readonly Graph[] {
  if (attribute.kind === 'graph') return [attribute.value];
  return attribute.kind === 'graphs' ? attribute.value : [];
}

function holdsGraphs(attribute: Attribute): boolean {
  return attribute.kind === 'graph' || attribute.kind === 'graphs';
}

/** Seven digits tell all float32 apart that a reviewer cares to; a point marks a float attribute as one. */
function floatText(value: number): string {
  const text = numberText(value);
  return /^-?[0-9]+$/.test(text) ? `${text}.0` : text;
}

function numberText(value: number | bigint): string {
  return typeof value === 'bigint' || Number.isInteger(value)
    ? String(value)
    : String(Number(value.toPrecision(7)));
}

function quoted(text: string): string {
  return JSON.stringify(text);
}

function shortened(text: string): string {
  return text.length <= MAX_PRINTED_CHARACTERS ? text : `${text.slice(0, MAX_PRINTED_CHARACTERS)}…`;
}
