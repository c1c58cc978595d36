import { constants, setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { parseJson } from '../json.ts';
import { encodeInfer, readDocument } from './infer.ts';
import type { JsonReply, JsonResults, JsonTask } from './json-messages.ts';

const port = parentPort!; // This file is only ever run as a worker.

// Large JSON is in no hurry. On Linux a priority belongs to the calling thread, elsewhere to the whole process.
if (process.platform === 'linux') setPriority(constants.priority.PRIORITY_BELOW_NORMAL);

port.on('message', (task: JsonTask) => {
  let reply: JsonReply;
  const transfer: ArrayBuffer[] = [];
  try {
    reply = { isDone: true, result: resultOf(task, transfer) };
  } catch (thrown) {
    const code = thrown instanceof BonsaiError ? thrown.code : undefined;
    reply = { isDone: false, code, message: messageOf(thrown) };
  }
  port.postMessage(reply, transfer);
});

/** @param transfer takes up the memory that goes with the result instead of being copied */
function resultOf(task: JsonTask, transfer: ArrayBuffer[]): JsonResults[JsonTask['kind']] {
  switch (task.kind) {
    case 'document': {
      const document = readDocument(task.target, task.body, task.headerLength, task.limits);
      for (const { bytes } of document.inputs) addBuffer(bytes, transfer);
      return document;
    }
    case 'value':
      return parseJson(task.body, task.maxDepth);
    case 'answer': {
      const encoded = encodeInfer(task.format, task.answer);
      addBuffer(encoded.body, transfer);
      return encoded;
    }
    default:
      return task satisfies never;
  }
}

function addBuffer({ buffer }: Uint8Array, transfer: ArrayBuffer[]): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength > 0 && !transfer.includes(buffer))
    transfer.push(buffer);
}
