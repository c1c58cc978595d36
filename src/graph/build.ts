import type { DType } from '../base/dtype.ts';
import { BonsaiError } from '../base/errors.ts';
import { float32Tensor, int64Tensor, scalarTensor, type Tensor } from '../base/tensor.ts';
import { type AttributeValue, toAttribute } from './attributes.ts';
import type { Graph, Model, Node, OpsetImport, Shape, ValueInfo, ValueType } from './model.ts';

export type AttributeValues = Readonly<Record<string, AttributeValue | undefined>>;

export interface OpOptions {
  /** Number of outputs, or their names. Default 1. */
  readonly outputs?: number | readonly string[];
  readonly name?: string;
  readonly domain?: string;
}

/**
 * Writes a graph node by node. Every method that adds something returns the name of the value that it made,
 * so that calls nest like the formula they write: `b.op('Relu', [b.op('Add', [x, y])])`.
 * Names of values and nodes are made unique; equal scalar and int64 constants are shared.
 */
export class GraphBuilder {
  readonly #name: string;
  readonly #nodes: Node[] = [];
  readonly #inputs: ValueInfo[] = [];
  readonly #outputs: ValueInfo[] = [];
  readonly #initializers = new Map<string, Tensor>();
  readonly #valueInfos = new Map<string, ValueInfo>();
  readonly #taken = new Set<string>();
  readonly #avoided = new Set<string>();
  readonly #counters = new Map<string, number>();
  readonly #shared = new Map<string, string>();
  /** Nodes whose names are this builder's choice, by their place. */
  readonly #made = new Set<number>();

  /** @param base a graph whose nodes, inputs, initialisers and outputs to start from (it is not changed) */
  constructor(name: string, base?: Graph) {
    this.#name = name;
    if (base === undefined) return;
    this.#nodes.push(...base.nodes);
    this.#inputs.push(...base.inputs);
    this.#outputs.push(...base.outputs);
    for (const [key, tensor] of base.initializers) this.#initializers.set(key, tensor);
    for (const [key, info] of base.valueInfos) this.#valueInfos.set(key, info);
    for (const info of base.inputs) this.#taken.add(info.name);
    for (const key of base.initializers.keys()) this.#taken.add(key);
    for (const node of base.nodes) for (const output of node.outputs) this.#taken.add(output);
  }

  input(name: string, dtype: DType, shape: Shape): string {
    this.#claim(name);
    this.#inputs.push({ name, type: { dtype, shape } });
    return name;
  }

  /** Declares a value as an output of the graph, under its own name. */
  output(value: string, dtype: DType, shape?: Shape): void {
    this.#outputs.push({ name: value, type: { dtype, shape } });
  }

  /** A named initialiser (a parameter). The name must be free. */
  initializer(name: string, tensor: Tensor): string {
    this.#claim(name);
    this.#initializers.set(name, tensor);
    return name;
  }

  /** An initialiser with a name made up from the hint. */
  constant(tensor: Tensor, hint = 'const'): string {
    return this.initializer(this.fresh(hint), tensor);
  }

  /** A float32 scalar constant, shared by all who ask for the same value. */
  scalar(value: number): string {
    return this.#share(`f:${value}`, () => this.constant(scalarTensor(value), 'scalar'));
  }

  /** An int64 vector constant (axes, shapes, indices), shared by all who ask for the same values. */
  ints(values: readonly number[]): string {
    return this.#share(`i:${values.join()}`, () => this.constant(int64Tensor(values), 'ints'));
  }

  /** A float32 vector constant, shared. */
  floats(values: readonly number[]): string {
    return this.#share(`v:${values.join()}`, () =>
      this.constant(float32Tensor([values.length], values), 'floats'),
    );
  }

  /** States the type of a value, for those who cannot infer it. */
  describe(value: string, type: ValueType): void {
    this.#valueInfos.set(value, { name: value, type });
  }

  /** Adds a node; returns its first output. Trailing undefined inputs are dropped, others become ''. */
  op(
    opType: string,
    inputs: readonly (string | undefined)[],
    attributes: AttributeValues = {},
    options: OpOptions = {},
  ): string {
    return this.ops(opType, inputs, attributes, options)[0]!;
  }

  /** Adds a node; returns all its outputs. */
  ops(
    opType: string,
    inputs: readonly (string | undefined)[],
    attributes: AttributeValues = {},
    options: OpOptions = {},
  ): string[] {
    const outputs = options.outputs ?? 1;
    const names =
      typeof outputs === 'number'
        ? Array.from({ length: outputs }, () => this.fresh(options.name ?? opType.toLowerCase()))
        : [...outputs];
    for (const name of names) if (name !== '') this.#claim(name);
    const given = inputs.map((input) => input ?? '');
    while (given.length > 0 && given.at(-1) === '') given.pop();
    this.#made.add(this.#nodes.length);
    this.#nodes.push({
      name: options.name ?? names[0] ?? '',
      opType,
      domain: options.domain ?? '',
      inputs: given,
      outputs: names,
      attributes: new Map(
        Object.entries(attributes).flatMap(([key, value]) =>
          value === undefined ? [] : [[key, toAttribute(value)] as const],
        ),
      ),
      docString: '',
    });
    return names;
  }

  /** Appends an existing node as it is. */
  node(node: Node): void {
    for (const output of node.outputs) if (output !== '') this.#claim(output);
    this.#nodes.push(node);
  }

  /** Keeps `fresh` away from names that existing nodes will bring along later. */
  avoid(names: Iterable<string>): void {
    for (const name of names) this.#avoided.add(name);
  }

  /** A name that nothing in the graph has yet. It is not reserved until something is made under it. */
  fresh(hint: string): string {
    const isFree = (name: string) => !this.#taken.has(name) && !this.#avoided.has(name);
    if (isFree(hint) && !this.#counters.has(hint)) {
      this.#counters.set(hint, 1);
      return hint;
    }
    for (;;) {
      const count = this.#counters.get(hint) ?? 1;
      this.#counters.set(hint, count + 1);
      const name = `${hint}_${count}`;
      if (isFree(name)) return name;
    }
  }

  has(name: string): boolean {
    return this.#taken.has(name);
  }

  finish(): Graph {
    return {
      name: this.#name,
      nodes: this.#namedApart(),
      inputs: [...this.#inputs],
      outputs: [...this.#outputs],
      initializers: new Map(this.#initializers),
      valueInfos: new Map(this.#valueInfos),
      docString: '',
    };
  }

  /** No engine takes two nodes of one name; those that were brought along keep theirs. */
  #namedApart(): Node[] {
    const taken = new Set(this.#nodes.flatMap(({ name }, i) => (this.#made.has(i) ? [] : [name])));
    return this.#nodes.map((node, i) => {
      if (!this.#made.has(i) || node.name === '') return node;
      let name = node.name;
      for (let count = 1; taken.has(name); count++) name = `${node.name}_${count}`;
      taken.add(name);
      return name === node.name ? node : { ...node, name };
    });
  }

  #share(key: string, make: () => string): string {
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const name = make();
    this.#shared.set(key, name);
    return name;
  }

  #claim(name: string): void {
    if (this.#taken.has(name)) {
      throw new BonsaiError(
        'invalid_graph',
        `The value "${name}" is defined twice in graph "${this.#name}".`,
      );
    }
    this.#taken.add(name);
  }
}

/** The operator set that Bonsai's own graphs are written in, and the IR version that goes with it. */
export const DEFAULT_OPSET = 17;
export const DEFAULT_IR_VERSION = 8;

/** A model of Bonsai's own making around a graph. */
export function modelOf(
  graph: Graph,
  options: {
    opset?: number;
    extraOpsets?: readonly OpsetImport[];
    metadata?: Readonly<Record<string, string>>;
  } = {},
): Model {
  return {
    irVersion: DEFAULT_IR_VERSION,
    opsets: [{ domain: '', version: options.opset ?? DEFAULT_OPSET }, ...(options.extraOpsets ?? [])],
    graph,
    metadata: new Map(Object.entries(options.metadata ?? {})),
    producerName: 'bonsai',
    producerVersion: '',
    domain: '',
    modelVersion: 0n,
    docString: '',
  };
}
