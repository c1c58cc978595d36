import { hasConsistentSize, type Tensor } from '../base/tensor.ts';
import { describeNode } from './attributes.ts';
import { InvalidGraphError } from './errors.ts';
import type { Attribute, Graph, Model, Node } from './model.ts';
import { sparseInitializerNames } from './onnx/leftovers.ts';
import { producersOf, sortTopologically, subgraphsOf } from './walk.ts';

/**
 * Whether a model keeps ONNX's structural rules: each value is defined once and before it is used, graph outputs exist,
 * tensors have as many bytes as their shapes ask for, operator sets of all domains in use are imported. Subgraphs see
 * the values defined before their node. Names of nodes need not be unique, because no engine asks for that.
 * What operators demand of their inputs is checked by shape inference, not here.
 * @throws InvalidGraphError naming the node and the value
 */
export function checkModel(model: Model): void {
  const domains = new Set<string>();
  for (const { domain } of model.opsets) {
    if (domains.has(domain)) throw new InvalidGraphError(`The operator set "${domain}" is imported twice.`);
    domains.add(domain);
  }
  checkGraph(model.graph, { domains, outer: undefined });
}

interface Scope {
  readonly domains: ReadonlySet<string>;
  /** Whether the graphs around this one define a name at this point; undefined for the main graph. */
  readonly outer: ((name: string) => boolean) | undefined;
}

function checkGraph(graph: Graph, scope: Scope): void {
  const place = `Graph "${graph.name}"`;
  const defined = new Set<string>();
  const define = (name: string, by: string) => {
    if (defined.has(name))
      throw new InvalidGraphError(
        `${place}: the value "${name}" is defined twice, the second time by ${by}.`,
      );
    defined.add(name);
  };
  for (const { name } of graph.inputs) {
    if (name === '') throw new InvalidGraphError(`${place}: an input has no name.`);
    define(name, 'a graph input');
  }
  for (const [name, tensor] of graph.initializers) {
    define(name, 'an initializer');
    checkTensor(tensor, `${place}: the initializer "${name}"`);
  }
  for (const name of sparseInitializerNames(graph)) define(name, 'a sparse initializer');
  const isKnown = (name: string) => defined.has(name) || (scope.outer?.(name) ?? false);
  for (const node of graph.nodes) {
    checkNode(graph, node, scope.domains);
    for (const input of node.inputs) {
      if (input !== '' && !isKnown(input)) throw undefinedInput(graph, node, input);
    }
    for (const subgraph of subgraphsOf(node))
      checkGraph(subgraph, { domains: scope.domains, outer: isKnown });
    for (const output of node.outputs) if (output !== '') define(output, describeNode(node));
  }
  const listed = new Set<string>();
  for (const { name } of graph.outputs) {
    // Engines want a subgraph's outputs to be made inside it, hence outer values do not count here.
    if (!defined.has(name))
      throw new InvalidGraphError(`${place}: nothing in it makes its output "${name}".`);
    if (listed.has(name)) throw new InvalidGraphError(`${place}: the output "${name}" is listed twice.`);
    listed.add(name);
  }
}

function checkNode(graph: Graph, node: Node, domains: ReadonlySet<string>): void {
  const place = `Graph "${graph.name}", ${describeNode(node)}`;
  if (node.opType === '') throw new InvalidGraphError(`${place}: the node names no operator.`);
  if (!domains.has(node.domain)) {
    const known = [...domains].map((domain) => `"${domain}"`).join(', ');
    throw new InvalidGraphError(
      `${place}: its domain "${node.domain}" is not among the imported operator sets (${known}).`,
    );
  }
  for (const [name, attribute] of node.attributes) {
    for (const tensor of tensorsIn(attribute)) checkTensor(tensor, `${place}: the attribute "${name}"`);
  }
}

function tensorsIn(attribute: Attribute): readonly Tensor[] {
  if (attribute.kind === 'tensor') return [attribute.value];
  return attribute.kind === 'tensors' ? attribute.value : [];
}

function checkTensor(tensor: Tensor, what: string): void {
  const { dtype, shape } = tensor;
  if (shape.some((size) => !Number.isSafeInteger(size) || size < 0)) {
    throw new InvalidGraphError(`${what} has the impossible shape [${shape.join(', ')}].`);
  }
  if (!hasConsistentSize(tensor)) {
    const held =
      dtype === 'string' ? `${tensor.strings?.length ?? 0} strings` : `${tensor.bytes.byteLength} bytes`;
    throw new InvalidGraphError(`${what} of ${dtype} [${shape.join(', ')}] holds ${held}.`);
  }
}

function undefinedInput(graph: Graph, node: Node, input: string): InvalidGraphError {
  const place = `Graph "${graph.name}", ${describeNode(node)}`;
  const producer = producersOf(graph).get(input);
  if (producer === undefined)
    return new InvalidGraphError(`${place}: its input "${input}" is defined nowhere.`);
  sortTopologically(graph); // Throws the better error if the reason is a cycle.
  return new InvalidGraphError(
    `${place}: its input "${input}" is made later, by ${describeNode(producer)}. Sort the nodes topologically.`,
  );
}
