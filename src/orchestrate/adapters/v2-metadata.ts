import type { TaskTensors } from '../server-adapter.ts';

/** What a model's metadata say of its tensors (`GET /v2/models/NAME`); undefined where nobody understands them. */
export function tensorsIn(body: string): TaskTensors | undefined {
  let metadata: unknown;
  try {
    metadata = JSON.parse(body);
  } catch {
    return undefined;
  }
  const { inputs, outputs } = (metadata ?? {}) as Partial<Record<keyof TaskTensors, unknown>>;
  return isTensors(inputs) && isTensors(outputs) ? { inputs, outputs } : undefined;
}

function isTensors(value: unknown): value is TaskTensors['inputs'] {
  return (
    Array.isArray(value) &&
    value.every(
      (tensor) =>
        typeof tensor?.name === 'string' &&
        typeof tensor.datatype === 'string' &&
        Array.isArray(tensor.shape) &&
        // Some servers write 64-bit numbers as texts.
        tensor.shape.every((size: unknown) => Number.isInteger(Number(size))),
    )
  );
}
