import { BonsaiError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { elementCount, float32Tensor, int64Tensor, numbersOf, type Tensor } from '../base/tensor.ts';
import { describeNode, intAttribute } from '../graph/attributes.ts';
import { checkModel } from '../graph/check.ts';
import { type Graph, type Model, type Node, type Shape, withGraph } from '../graph/model.ts';
import { consumersOf, producersOf } from '../graph/walk.ts';
import { inferTypes } from '../ops/infer.ts';
import { foldConstants } from '../transform/passes/fold-constants.ts';
import type { Dataset } from './data/data-module.ts';
import { withOpenBatch } from './train/teacher.ts';

/**
 * A trained classifier made ready for other data (transfer learning): its last layer starts anew with one answer for each
 * class, and it takes images of the data's size where its graph admits that. Everything else keeps its weights.
 * @param seed of the new layer's weights, normal with deviation 0.01 as is usual for fine-tuning; biases are 0
 * @throws BonsaiError `unsupported` where there is no last layer to replace, or a batch is built in; `shape_mismatch` where the
 * network is for images of one size alone
 */
export function transferTo(
  network: Model,
  data: Pick<Dataset, 'shape' | 'classes'>,
  { seed }: { readonly seed: number },
): Model {
  const open = withOpenBatch(network);
  if (open === undefined) {
    throw new BonsaiError(
      'unsupported',
      'The network takes a fixed number of images at a time, which is built into its graph. Export it with an open batch.',
    );
  }
  const classes = data.classes.length;
  const resized = withImageSize(withNewHead(foldConstants(open), classes, seed), data.shape);
  checkModel(resized);
  checkAnswer(resized, data.shape, classes);
  return resized;
}

/** Layers between the last weights and the answer, which know nothing of the classes but their number. */
const BEHIND_HEAD = new Set([
  'Softmax',
  'LogSoftmax',
  'Sigmoid',
  'Identity',
  'Relu',
  'Flatten',
  'Reshape',
  'Squeeze',
  'GlobalAveragePool',
  'AveragePool',
  'ReduceMean',
  'Add',
]);

function withNewHead(model: Model, classes: number, seed: number): Model {
  const { graph } = model;
  const [answer] = graph.outputs;
  const producers = producersOf(graph);
  const behind: Node[] = [];
  let node = producers.get(answer?.name ?? '');
  while (node !== undefined && BEHIND_HEAD.has(node.opType) && node.domain === '') {
    const sources = node.inputs.filter((name) => name !== '' && !graph.initializers.has(name));
    if (sources.length !== 1) break; // Two branches meet here: no bias.
    behind.push(node);
    node = producers.get(sources[0]!);
  }
  const head = node && classAxisOf(graph, node);
  if (node === undefined || head === undefined) {
    throw new BonsaiError(
      'unsupported',
      `A new head replaces the last layer, a Gemm, MatMul or Conv with float32 weights; ${
        node === undefined ? 'this network has none before its output' : `here it is ${describeNode(node)}`
      }.`,
    );
  }
  const initializers = new Map(graph.initializers);
  const consumers = consumersOf(graph);
  const replaced = new Map<Node, Node>();
  /** The node with another tensor for one of its inputs, under the old name unless others read that too. */
  const replace = (old: Node, index: number, tensor: Tensor) => {
    const name = old.inputs[index]!;
    const own = consumers.get(name)!.length === 1 ? name : `${old.outputs[0]}/transferred_${index}`;
    initializers.set(own, tensor);
    const current = replaced.get(old) ?? old;
    replaced.set(old, { ...current, inputs: current.inputs.with(index, own) });
  };

  const weight = graph.initializers.get(node.inputs[1]!)!;
  const before = weight.shape[head]!;
  const toClasses = <S>(size: S) => (size === before ? classes : size);
  const shape = weight.shape.with(head, classes);
  const random = seededRandom(seed).fork('head');
  const values = Float32Array.from(
    { length: elementCount(shape) },
    () => INITIAL_DEVIATION * random.normal(),
  );
  replace(node, 1, float32Tensor(shape, values));
  const biases: (readonly [Node, number])[] = graph.initializers.has(node.inputs[2] ?? '') ? [[node, 2]] : [];
  for (const layer of behind) {
    const index = layer.inputs.findIndex((name) => graph.initializers.has(name));
    if (index < 0) continue;
    if (layer.opType === 'Add') biases.push([layer, index]);
    if (layer.opType === 'Reshape') {
      const sizes = numbersOf(graph.initializers.get(layer.inputs[index]!)!);
      replace(layer, index, int64Tensor(sizes.map(toClasses)));
    }
  }
  for (const [layer, index] of biases) {
    const old = graph.initializers.get(layer.inputs[index]!)!;
    // A bias that is one number for all classes stays one number.
    const sizes = old.shape.map(toClasses);
    replace(layer, index, float32Tensor(sizes, new Float32Array(elementCount(sizes))));
  }
  return withGraph(model, {
    ...graph,
    nodes: graph.nodes.map((each) => replaced.get(each) ?? each),
    initializers,
    outputs: graph.outputs.map(({ name, type }) => ({
      name,
      type: type && { dtype: type.dtype, shape: type.shape?.map(toClasses) },
    })),
    valueInfos: new Map(),
  });
}

/** Girshick et al. 2014 and most since: a new layer that says little at first leaves the trained ones below in peace. */
const INITIAL_DEVIATION = 0.01;

/** Which axis of a linear layer's weights counts its outputs; undefined for any other node. */
function classAxisOf(graph: Graph, node: Node): number | undefined {
  const weight = graph.initializers.get(node.inputs[1] ?? '');
  if (weight?.dtype !== 'float32' || node.domain !== '') return undefined;
  switch (node.opType) {
    case 'Gemm':
      return intAttribute(node, 'transB', 0) ? 0 : 1;
    case 'MatMul':
      return weight.shape.length === 2 ? 1 : undefined;
    case 'Conv':
      return intAttribute(node, 'group', 1) === 1 ? 0 : undefined;
    default:
      return undefined;
  }
}

/** The network with its image input declared at another size, in its own layout. */
function withImageSize(model: Model, [channels, height, width]: Dataset['shape']): Model {
  const { graph } = model;
  const [image, ...others] = graph.inputs;
  const stated = image?.type?.shape;
  if (stated?.length !== 4 || others.length > 0) return model; // withImageInput says what is wrong with that.
  const isLast = stated[1] !== channels && stated[3] === channels;
  const sizes: Shape = isLast ? [height, width, channels] : [channels, height, width];
  const resized: Shape = stated.map((size, axis) =>
    axis > 0 && typeof size === 'number' && size !== channels ? sizes[axis - 1]! : size,
  );
  return withGraph(model, {
    ...graph,
    inputs: [{ ...image!, type: { ...image!.type!, shape: resized } }],
  });
}

/** Any batch but 1, which some graphs have built in. */
const PROBE_BATCH = 2;

function checkAnswer(model: Model, [channels, height, width]: Dataset['shape'], classes: number): void {
  const [image] = model.graph.inputs;
  const isLast = image?.type?.shape?.[3] === channels && image.type.shape[1] !== channels;
  const shape = isLast ? [PROBE_BATCH, height, width, channels] : [PROBE_BATCH, channels, height, width];
  let answer: Shape | undefined;
  let cause: unknown;
  try {
    const { types } = inferTypes(model, { inputs: { [image?.name ?? '']: shape } });
    answer = types.get(model.graph.outputs[0]?.name ?? '')?.shape;
  } catch (thrown) {
    cause = thrown;
  }
  if (answer?.[0] === PROBE_BATCH && elementCount(answer.slice(1).map(Number)) === classes) return;
  throw new BonsaiError(
    'shape_mismatch',
    `The network cannot take images of ${channels}×${height}×${width} and tell ${classes} classes apart` +
      `${cause instanceof Error ? `: ${cause.message}` : answer && `; it would answer [${answer.map((size) => size ?? '?').join(', ')}]`}. ` +
      'Networks that average over the image before their last layer take other sizes; load the data in the size it was trained for (images:PATH,size=32).',
    { cause },
  );
}
