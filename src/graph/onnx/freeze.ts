import { create } from '@bufbuild/protobuf';
import type { Graph } from '../model.ts';
import { messageIn } from './leftovers.ts';
import { GraphProtoSchema } from './onnx_pb.ts';

/**
 * The graph with all its initialisers as constants: an IR 4 file that also lists initialisers as inputs lets callers
 * replace them, for which engines give up folding (a BatchNormalization then stays a node of its own at run time).
 */
export function freezeInitializers(graph: Graph): Graph {
  const rest = messageIn(graph.opaque, GraphProtoSchema);
  if (rest === undefined || rest.input.length === 0) return graph;
  const frozen = Object.assign(create(GraphProtoSchema), rest, { input: [] });
  return { ...graph, opaque: { onnx: frozen } };
}
