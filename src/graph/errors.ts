import { BonsaiError } from '../base/errors.ts';

/** Bytes that are not the ONNX model that they should be. The message says where: file, and byte offset or name. */
export class CorruptModelError extends BonsaiError {
  /**
   * @param where the file, tensor, node or byte offset, as a phrase: `model.onnx, initializer "conv1.weight"`
   * @param what what is wrong there, as a clause without a full stop
   */
  constructor(where: string, what: string, options?: { cause?: unknown }) {
    super(
      'corrupt_model',
      `${where}: ${what}. Export the model again, or check that the file was copied whole.`,
      options,
    );
  }
}

/** A graph that breaks ONNX's rules. The message names the node and the value. */
export class InvalidGraphError extends BonsaiError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('invalid_graph', message, options);
  }
}
