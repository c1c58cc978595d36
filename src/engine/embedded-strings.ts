import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { BonsaiError } from '../base/errors.ts';
import type { Tensor } from '../base/tensor.ts';
import { readModel } from '../graph/onnx/read.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { Session, type SessionOptions } from './session.ts';

/** A network as it was loaded, for those who have to load it once more. */
export interface NetworkSource {
  /** A file's path or the bytes of an ONNX model. */
  readonly model: string | Uint8Array;
  readonly options: SessionOptions;
}

/**
 * Whether a tensor holds strings that ONNX Runtime's Node.js binding would change on their way in: it ends them at a
 * NUL, and takes in only what is UTF-8.
 */
export function needsEmbedding({ strings }: Tensor): boolean {
  return strings?.some((item) => item.includes(0) || !isUtf8(item)) === true;
}

/**
 * Runs a network on strings of any bytes. Files hold strings with their length, so the inputs become constants of a
 * network of its own, which is loaded for this one run: exact, and as slow as loading is.
 * @param inputs by name
 * @returns the outputs in the network's order
 * @throws BonsaiError `engine_failure`; `invalid_request` if an output holds bytes that the binding cannot give back
 */
export async function runEmbedded(
  { model, options }: NetworkSource,
  inputs: ReadonlyMap<string, Tensor>,
): Promise<Tensor[]> {
  const network = readModel(typeof model === 'string' ? await readFile(model) : model);
  const { graph } = network;
  const embedded = new Map([...inputs].filter(([, tensor]) => needsEmbedding(tensor)));
  const session = await Session.create(
    writeModel({
      ...network,
      graph: {
        ...graph,
        inputs: graph.inputs.filter(({ name }) => !embedded.has(name)),
        initializers: new Map([...graph.initializers, ...embedded]),
      },
    }),
    options,
  );
  try {
    const results = await session.run(
      Object.fromEntries([...inputs].filter(([name]) => !embedded.has(name))),
    );
    const outputs = session.outputNames.map((name) => results[name]!);
    if ([...embedded.values()].some(({ strings }) => !strings!.every((item) => isUtf8(item))))
      outputs.forEach(checkKept);
    return outputs;
  } finally {
    await session.release();
  }
}

const REPLACEMENT = Buffer.from('\ufffd');

/** Bytes that are no UTF-8 come out as U+FFFD. @throws BonsaiError `invalid_request` */
function checkKept({ strings = [] }: Tensor): void {
  if (!strings.some((item) => Buffer.from(item).includes(REPLACEMENT))) return;
  throw new BonsaiError(
    'invalid_request',
    'an output holds strings that are not UTF-8, which ONNX Runtime cannot give back to Node.js; strings of ONNX are UTF-8: send other bytes as UINT8',
  );
}
